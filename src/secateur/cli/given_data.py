"""The data that a command was given, or that of the run that made its model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.run.recipe import make_group
from secateur.run.recipe_data import DataRecipe
from secateur.run.run_data import open_data
from secateur.run.run_values import teacher_of, with_run_values
from secateur.system.errors import UserError
from secateur.system.files import refuse_lost, refuse_occupied, refuse_other_than_model, refuse_unwritable_file
from secateur.tasks.labelled import LabelledTask
from secateur.tasks.task import Task

log = logging.getLogger(__name__)


OpenedData = tuple[DataRecipe, Task]


def check_source(given: Mapping[str, Any], model: str | None = None) -> None:
    """Refuse options that say how data are read where none are given, and no run of `model` tells any.

    Raises:
        UserError: there are such options, which are named.
    """
    options = _options(given)
    values = given if model is None or not options else with_run_values(given, model)
    if options and "data.source" not in values:
        names = " and ".join(options)
        raise UserError(f"no data is given that {names} could be of: name it by --data, or leave {names} out")


def _options(given: Mapping[str, Any]) -> list[str]:
    """The keys that say how data are read."""
    return [key for key in given if key.startswith("data.") and key != "data.source"]


def opened_data(given: Mapping[str, Any], model: str | None = None) -> OpenedData:
    """The group `data` of what was given on the command line, and the task that it opens.

    What was not given is that of the run that made `model`, if one has, its data too.

    Raises:
        UserError: a value does not fit, or the data cannot be read, or none are given and no run tells any.
    """
    values = dict(given) if model is None else with_run_values(given, model)
    if "data.source" not in values:
        run = "" if model is None else f", and {model} is of no run, which would tell it"
        raise UserError(f"no data is given{run}: name it by --data")
    seed = values.pop("seed", 0)
    data = make_group("data", values)
    try:
        task = open_data(data, seed)
    except UserError as error:
        if "data.source" in given:
            raise
        raise UserError(f"the data of the run cannot be read ({error}): name where it is now by --data") from error
    own = model is not None and not {"data.source", "data.labels"} & given.keys()
    return data, _labelled_as_in_run(task, str(model)) if own else task


def _labelled_as_in_run(task: Task, model: str) -> Task:
    """The data of a run with its labels in the order of the outputs, which a model of it may call by new names since.

    They are those of the teacher; where it cannot be read, or has other labels, the model's are matched by name.
    """
    teacher = teacher_of(model)
    if teacher is None or not isinstance(task, LabelledTask):
        return task
    try:
        return task.in_order_of(teacher, "teacher")
    except UserError:
        return task


def scored_source(data: DataRecipe, task: Task) -> str:
    """Where the rows come from that a task is scored on: its own evaluation, if it has one, or else the data."""
    return data.evaluation if data.evaluation and task.evaluation_is_data else data.source


def data_if_known(given: Mapping[str, Any], model: str, rows: int | None = None) -> OpenedData | None:
    """As `opened_data`, or None where no data is given and the run of the model tells none that can be read here.

    Args:
        rows: number of training rows that are used.

    Raises:
        UserError: as `opened_data`, for data that is given or that an option is of, and as `check_source`.
    """
    check_source(given, model)
    values = given if rows is None else {**given, "data.rows": rows}
    if "data.source" in given or _options(given):
        return opened_data(values, model)
    if "data.source" not in with_run_values(given, model):
        return None
    try:
        return opened_data(values, model)
    except UserError as error:
        log.info("nothing is scored: %s", error)
        return None


def refuse_existing(file: Path, overwrite: bool = False) -> None:
    """Refuse a file that would be replaced, unless that is asked for, and one that cannot be written.

    Raises:
        UserError: it is such a file, or a folder.
    """
    refuse_unwritable_file(file)
    if file.exists() and not overwrite:
        raise UserError(f"{file} is there already: choose a new file, or replace it by --overwrite")


def refuse_taken(folder: Path, overwrite: bool, read: Iterable[str | Path | None]) -> None:
    """Refuse a folder that is not empty, unless it is a model's, which is to be replaced.

    Args:
        read: files and folders that the command reads.

    Raises:
        UserError: it would be replaced, or holds something else than a model, or something that is read.
    """
    refuse_lost(folder, read)
    if overwrite:
        refuse_other_than_model(folder)
    else:
        refuse_occupied(folder)
