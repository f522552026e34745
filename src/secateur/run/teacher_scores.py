"""The scores of a teacher on the validation rows, computed once and kept in a file for the runs that share it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel

from secateur.measure.evaluation import scored
from secateur.run.run_data import RunData
from secateur.structure.fingerprints import model_fingerprint
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion
from secateur.system.files import fingerprint
from secateur.tasks.class_scores import ClassScore

FORMAT = FileFormat(2, {1: lambda scores: {"scores": scores, "classes": None}})
"""Version 1 had the scores alone, without those of each class."""


def kept_scores(data: RunData, teacher: PreTrainedModel, folder: Path) -> dict[str, float]:
    """Every metric of the task for a teacher, from a file in `folder`, or computed. All processes must call it."""
    scores: dict[str, float] = _kept(data, teacher, folder)["scores"]
    return scores


def kept_classes(data: RunData, teacher: PreTrainedModel, folder: Path) -> list[ClassScore] | None:
    """As `kept_scores`, those of each class; None where an older version has written the file."""
    classes = _kept(data, teacher, folder)["classes"]
    return None if classes is None else [ClassScore(**one) for one in classes]


def _kept(data: RunData, teacher: PreTrainedModel, folder: Path) -> dict[str, Any]:
    path, kept = processes.on_main(lambda: _found(data, teacher, folder))
    if kept is not None:
        return kept
    found = scored(teacher, data.task, data.validation_rows, data.tokenizer)
    computed = {"scores": found.scores, "classes": [one.to_dict() for one in found.classes]}
    processes.on_main(partial(_write, path, computed))
    return computed


def _found(data: RunData, teacher: PreTrainedModel, folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file of the scores, and what it holds, if it exists. Only the main process has all weights to name it by."""
    path = folder / f"scores-{_key(data, teacher)}.json"
    return path, _read(path)


def _key(data: RunData, teacher: PreTrainedModel) -> str:
    """16 hex digits that depend on all that affects the scores: the model, the task and its rows."""
    keys = data.recipe.data
    settings = [keys.task, keys.metric, keys.source, keys.text, keys.label, keys.labels, keys.options, keys.evaluation]
    values = [model_fingerprint(teacher), *settings, data.validation_rows]
    return fingerprint([json.dumps(values, sort_keys=True, default=str)])


def _read(path: Path) -> dict[str, Any] | None:
    """What is in a file; None if it does not exist or is damaged.

    Raises:
        NewerVersion: a later version wrote it.
    """
    try:
        return FORMAT.read(path)
    except NewerVersion:
        raise
    except (OSError, UserError):
        return None


def _write(path: Path, computed: dict[str, Any]) -> None:
    """Write scores for other runs, some of which may be writing the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        FORMAT.write(path, computed)
