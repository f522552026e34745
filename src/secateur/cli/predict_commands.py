"""What a model says of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import OF_RUN, Folder, Json
from secateur.cli.recipe_options import recipe_options


@recipe_options("data.task", "data.max_length", "data.options", shown=OF_RUN)
@done_by("predict_work")
def predict(
    folder: Folder,
    given: dict[str, Any],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none to read them from --file or stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="File of texts, one input a line; - is stdin.")] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Every two texts are one input, as a premise and a hypothesis; in a file a tab is between them. "
            "Tasks that always need two, such as a question and its context, and runs on pairs need no --pairs.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a model says of texts: classes, tags, answers, vectors, scores or texts, as its task has it.

    The task of a run is known; for another model name it by --task. Labels are those of the model.
    """
