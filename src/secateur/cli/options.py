"""Options and arguments that several commands have, and that are no keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.run.recipe import make_group
from secateur.run.recipe_data import DataRecipe
from secateur.run.run_data import open_data
from secateur.run.run_values import with_run_values
from secateur.system.errors import UserError
from secateur.tasks.task import Task

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ModelName = Annotated[str, typer.Argument(help="A hub name or a model folder, dense or compact.")]
Folder = Annotated[str, typer.Argument(help="A model folder, or the folder of a finished run.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new or empty.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Units = Annotated[str, typer.Option(help="Kinds of units, with commas between them; see `secateur list`.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(help="batch x tokens to measure at, such as 1x32; repeatable.", show_default="1x32, 8x128"),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of every runtime.", show_default="the number that PyTorch uses")
]

SHAPES = ("1x32", "8x128")


def opened_data(given: Mapping[str, Any], model: str | None = None) -> tuple[DataRecipe, Task]:
    """The group `data` of what was given on the command line, and the task that it opens.

    What was not given is that of the run that made `model`, if one has.

    Raises:
        UserError: a value does not fit, or the data cannot be read.
    """
    values = dict(given) if model is None else with_run_values(given, model)
    seed = values.pop("seed", 0)
    data = make_group("data", values)
    return data, open_data(data, seed)


def refuse_existing(file: Path) -> None:
    """Refuse a file that would be replaced."""
    if file.exists():
        raise UserError(f"{file} is there already: choose a new file")
