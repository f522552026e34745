"""Publishing: put a model folder on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import Folder, Json


@done_by("publish_work")
def publish_model(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="ORG/NAME: the repository, which is made if it is not there.")],
    base_model: Annotated[
        str | None, typer.Option(help="Name on the hub of the base model, where the card does not know it.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Name on the hub of the data, where the card does not know it.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence, such as apache-2.0, where the card has none of the base model.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="A folder of export --layout hub, whose onnx/ files and tokenizer are published too."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str, typer.Option(help="Branch, which is made if it is not there.")] = "main",
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Delete the files of the repository that are not in the folder; else they are refused."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list the files only, without a token and a network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a model on the hub, in one commit: all of it or nothing.

    Files of the repository that have the same names are replaced, its card too. Keys that the card's header lacks are
    completed on the way; the folder stays as it is.
    """
