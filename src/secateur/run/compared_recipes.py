"""Which of several finished runs are seeds of one recipe on one data set, and what recipes and data are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.report.names import told_apart
from secateur.report.report_text import target_text
from secateur.run.finished_run import FinishedRun

SOURCE, ROWS, DATA, FOLDER = "data.source", "training rows", "training data", "folder"
"""What may distinguish runs beside the keys of their recipes: where their training rows are, how many there are, their
fingerprint, and the folder of the run or of its seeds."""

Values = Mapping[str, Any]


def by_recipe(runs: Sequence[FinishedRun]) -> list[tuple[str, list[FinishedRun]]]:
    """The runs by the names of their recipes, each with its seeds.

    Runs that were trained on different data are no seeds of one recipe, nor are two runs of one seed.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run, data in zip(runs, _training_data(runs), strict=True):
        groups.setdefault(json.dumps([run.recipe, data], sort_keys=True), []).append(run)
    members = [own for group in groups.values() for own in _by_seeds(group)]
    names = [f"{own[0].recipe['method.name']} at {_target(own[0])}" for own in members]
    data_of = dict(zip([run.folder for run in runs], _training_data(runs), strict=True))
    values = [own[0].recipe | _data_values(own[0], data_of[own[0].folder]) | {FOLDER: _place(own)} for own in members]
    for name in {name for name in names if names.count(name) > 1}:
        sharing = [number for number, other in enumerate(names) if other == name]
        ends = _ends([values[number] for number in sharing], ([*members[0][0].recipe], [SOURCE, ROWS, DATA], [FOLDER]))
        for number, end in zip(sharing, ends, strict=True):
            names[number] += end
    return list(zip(names, members, strict=True))


def names_of_data(runs: Sequence[FinishedRun]) -> dict[Path, str]:
    """Folder of a run -> what distinguishes its training data, to end a name; nothing if all have the same."""
    data = _training_data(runs)
    first = {own: _data_values(run, own) for run, own in reversed([*zip(runs, data, strict=True)])}
    ends = dict(zip(first, _ends([*first.values()], ([SOURCE, ROWS, DATA],)), strict=True))
    return {run.folder: ends[own] for run, own in zip(runs, data, strict=True)}


def _training_data(runs: Sequence[FinishedRun]) -> list[str]:
    """What is equal for runs that were trained on the same data.

    Of runs of before it is the fingerprint of all data, or, where the seed has sampled the training rows, the source.
    """
    recorded = [run.report.trained for run in runs]
    if all(recorded):
        return [own or "" for own in recorded]
    return [run.report.data if run.recipe["data.rows"] is None else _source(run) for run in runs]


def _source(run: FinishedRun) -> str:
    return str(run.report.recipe["data"]["source"])


def _data_values(run: FinishedRun, data: str) -> dict[str, Any]:
    return {SOURCE: _source(run), ROWS: run.report.rows.get("train"), DATA: data}


def _by_seeds(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Runs of one recipe, divided so that no seed occurs twice: those of one folder together, or else each alone."""
    if _seeds_differ(runs):
        return [[*runs]]
    places: dict[Path, list[FinishedRun]] = {}
    for run in runs:
        places.setdefault(run.folder.parent, []).append(run)
    divided = [[own] if _seeds_differ(own) else [[run] for run in own] for own in places.values()]
    return [own for part in divided for own in part]


def _seeds_differ(runs: Sequence[FinishedRun]) -> bool:
    return len({run.report.recipe["seed"] for run in runs}) == len(runs)


def _place(runs: Sequence[FinishedRun]) -> str:
    """The folder of a run, or that of the folders of several."""
    return str(runs[0].folder.parent if len(runs) > 1 else runs[0].folder)


def _ends(values: Sequence[Values], ranks: Sequence[Sequence[str]]) -> list[str]:
    """What distinguishes values, each as the end of a name.

    Args:
        ranks: their keys, of which those of a later rank are only used where those before distinguish no further.
    """
    ends = [""] * len(values)
    order = [key for keys in ranks for key in keys]
    for key in sorted(_distinguishing(values, ranks), key=order.index):
        for number, value in enumerate(_shown([own[key] for own in values])):
            ends[number] += f", {key} {value}"
    return ends


def _shown(values: Sequence[Any]) -> list[str]:
    """Values of a key in few characters, of paths as many as tell them apart."""
    shortened = told_apart([value for value in values if isinstance(value, str)])
    return [shortened.pop(0) if isinstance(value, str) else brief(value) for value in values]


def _target(run: FinishedRun) -> str:
    """What the recipe asks for; of a density that the run has chosen the part of the score that it was to keep."""
    part = run.recipe["target.keep_score"]
    return target_text(run.report) if part is None else f"{100 * part:g}% of the score"


def _distinguishing(values: Sequence[Values], ranks: Sequence[Sequence[str]]) -> list[str]:
    """Keys that distinguish values, chosen greedily: each divides them into the most classes."""
    chosen: list[str] = []

    def classes(keys: Sequence[str]) -> int:
        return len({json.dumps([own[key] for key in keys]) for own in values})

    for keys in ranks:
        while classes(chosen) < classes([*chosen, *keys]):
            chosen.append(max(keys, key=lambda key: classes([*chosen, key])))
    return chosen


def brief(value: Any) -> str:
    """A value of a recipe in few characters."""
    if isinstance(value, dict):
        return " ".join(f"{key}={brief(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "+".join(map(brief, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
