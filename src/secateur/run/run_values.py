"""The data settings of the run that made a model, so that the model is scored again as the run has scored it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.report.recipe_keys import dotted, upgrade
from secateur.report.report import Report
from secateur.run.recipe import Recipe, keys_of, make
from secateur.run.run_folder import folders_of
from secateur.tasks import TASKS
from secateur.tasks.compared_task import ComparedTask

MODELS = ("model", "teacher")
"""The folders of models in the folder of a run."""
OF_DATA = ("source", "task", "text", "label", "labels", "evaluation", "pooling", "metric", "max_length", "options")


def with_run_values(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What was given, and what the run says that `name` is of: data, columns, labels, metric, length, options, seed.

    Args:
        given: dotted keys of a recipe.
        name: a model, or the folder of a run. A model that no run has made adds nothing, and so does a run of another
            task than the given one.
    """
    recipe = _recipe_of(Path(name))
    if recipe is None or given.get("data.task", recipe.data.task) != recipe.data.task:
        return dict(given)
    values = {key: value for key, value in dotted(recipe.to_dict()).items() if value is not None}
    kept = {f"data.{key}" for key in OF_DATA} | {"seed"}
    own = {key: value for key, value in values.items() if key in kept}
    compared = issubclass(TASKS.get(recipe.data.task), ComparedTask)
    against = {"reference": recipe.teacher or recipe.model} if compared else {}
    options = {**against, **own.get("data.options", {}), **given.get("data.options", {})}
    return own | dict(given) | {"data.options": options}


def teacher_of(name: str) -> str | None:
    """The place of the teacher of the run that `name` is of, whose outputs all its models have; None for no run."""
    folder = _run_of(Path(name))
    recipe = None if folder is None else _recipe_of(folder)
    return None if folder is None or recipe is None else place_of_teacher(folder, recipe.teacher, recipe.model)


def asked_as(name: str, task: str) -> dict[str, Any]:
    """How the run of this task that `name` is of asks its model (`Report.asked`); nothing for no finished run."""
    folder, recipe = _run_of(Path(name)), _recipe_of(Path(name))
    if folder is None or recipe is None or recipe.data.task != task or not (folder / "report.json").is_file():
        return {}
    return dict(Report.load(folder).asked)


def place_of_teacher(folder: Path, named: str | None, model: str) -> str:
    """The place of the dense teacher: named by the recipe, trained by this run or its sweep, or the model."""
    trained = (place / "teacher" for place in (folder, shared_folder(folder)) if place is not None)
    return named or next((str(place) for place in trained if place.is_dir()), model)


def shared_folder(folder: Path) -> Path | None:
    """What a run shares with others: the folder of its density sweep, or of the trials of its sweep; None if alone."""
    folder = _named(folder)
    parent = folder.parent
    if parent.name == "trials" and (parent.parent / "sweep.yaml").is_file():
        return parent
    try:
        recipe = _recipe_of(parent)
    except (TypeError, ValueError):  # it is no recipe, or that of a sweep, or of a later version
        return None
    return parent if recipe is not None and folder in folders_of(recipe, parent) else None


def _run_of(folder: Path) -> Path | None:
    """The run whose folder this is, or one of whose models."""
    folder = _named(folder)
    places = (folder, *((folder.parent,) if folder.name in MODELS else ()))
    return next((place for place in places if (place / "recipe.yaml").is_file()), None)


def _named(folder: Path) -> Path:
    """A folder by a path that ends in its name, as `.` and `..` do not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def _recipe_of(folder: Path) -> Recipe | None:
    """The recipe of the run whose folder this is, or one of whose models."""
    run = _run_of(folder)
    if run is None:
        return None
    path = run / "recipe.yaml"
    return make(upgrade(dict(keys_of(path.read_text(encoding="utf-8"), str(path)))), str(path))
