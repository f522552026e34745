"""The data that a command was given, or that of the run that made its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.run.recipe import make_group
from secateur.run.recipe_data import DataRecipe
from secateur.run.run_data import open_data
from secateur.run.run_values import with_run_values
from secateur.system.errors import UserError
from secateur.tasks.task import Task


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
