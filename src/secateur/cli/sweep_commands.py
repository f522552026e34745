"""A sweep: runs of one recipe with other values of some keys, of which the best are searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import Json


@done_by("sweep_work")
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="Recipe in YAML with a block `sweep`, which says what varies.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the sweep; a second worker names the same.")
    ],
    trials: Annotated[
        int | None,
        typer.Option(
            help="Number of trials, of all workers together.",
            min=1,
            show_default="20; of a grid all combinations",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Number of workers to start here, each a process with a part of the cores.", min=1)
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            help="URL of a database that workers on several machines share, such as postgresql://HOST/NAME.",
            show_default="an SQLite file in the folder",
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study in the database.", show_default="that of the folder")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of the recipe, as key=value; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search the best values of a recipe's keys by trials, in several workers.

    The same command continues an interrupted sweep, also with more trials. Given again elsewhere at the same time, it
    is one more worker.
    """
