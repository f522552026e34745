"""The logs of a run folder: what training logged, how many units were kept at each step, and what each head kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from transformers import PreTrainedModel

from secateur.structure.plan import Plan
from secateur.surgery import compact
from secateur.surgery.checkpoint import DAMAGE, read_config
from secateur.system import compat
from secateur.system.errors import UserError

Line: TypeAlias = Mapping[str, Any]
Curve: TypeAlias = tuple[list[float], list[float]]
"""Steps of a stage, and a value at each step."""


@dataclass(frozen=True)
class Stage:
    """What training logged in one stage, over all its attempts.

    Attributes:
        steps: number of steps of the whole stage.
        lines: as they were logged; for a step that ran twice, the last ones.
        rates: examples per second between two logs, without evaluations; empty for a run that did not count its rows.
    """

    name: str
    steps: int
    lines: tuple[Line, ...]
    rates: Curve

    def curve(self, key: str) -> Curve:
        """The steps at which a value was logged, and the values."""
        found = [line for line in self.lines if key in line]
        return [line["step"] for line in found], [line[key] for line in found]

    def keys(self, prefix: str) -> list[str]:
        """The keys with a prefix, in the order in which they were first logged."""
        return list(dict.fromkeys(key for line in self.lines for key in line if key.startswith(prefix)))


@dataclass(frozen=True)
class Survivors:
    """The dims and units that the model of a run kept.

    Attributes:
        head_size: dims of each head before the cut.
        heads: `qk` and `vo` -> name of each layer (or of its second attention) -> the dims that each head kept.
        units: name of a group of the plan -> number of its units before the cut.
    """

    head_size: int
    heads: Mapping[str, Mapping[str, list[int]]]
    units: Mapping[str, int]


@dataclass(frozen=True)
class KeptUnits:
    """The number of units of each group that were kept, over the `steps` of the prune stage: group -> curve."""

    steps: int
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class RunLog:
    """The logs of a run folder; what the run did not write is empty or None.

    Attributes:
        unread: number of damaged lines in the logs, such as one cut off by a full disk.
    """

    stages: tuple[Stage, ...]
    kept_units: KeptUnits | None
    survivors: Survivors | None
    unread: int


def read(folder: Path) -> RunLog:
    """The logs of a run, finished or not.

    Raises:
        UserError: the model in the folder is damaged.
    """
    logged, unread = _lines(folder / "log.jsonl", ("stage", "step", "of"))
    kept, unread_counts = _lines(folder / "pruned.jsonl", ("step", "of", "kept"))
    names = dict.fromkeys(line["stage"] for line in logged)
    stages = tuple(_stage(name, [line for line in logged if line["stage"] == name]) for name in names)
    survivors = _survivors(folder / "model") if (folder / "model").is_dir() else None
    return RunLog(stages, _kept_units(kept), survivors, unread + unread_counts)


def _lines(path: Path, needed: Sequence[str]) -> tuple[list[Line], int]:
    """The lines of a log that have the needed keys, and the number of the others; none if there is no log."""
    if not path.is_file():
        return [], 0
    found = [_parsed(text) for text in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    good: list[Line] = [line for line in found if isinstance(line, dict) and all(key in line for key in needed)]
    return good, len(found) - len(good)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _stage(name: str, logged: Sequence[Line]) -> Stage:
    """The lines of one stage; an attempt that resumes from a checkpoint logs the steps after it again."""
    last = {(line["step"], "eval_runtime" in line, "train_runtime" in line): line for line in logged}
    lines = tuple(sorted(last.values(), key=lambda line: line["step"]))
    return Stage(name, logged[-1]["of"], lines, _rates(logged))


def _rates(logged: Sequence[Line]) -> Curve:
    steps, rates = [], []
    for before, after, evaluating in _intervals(logged):
        seconds = after["seconds"] - before["seconds"] - evaluating
        rows = after["rows"] - before["rows"]
        if rows > 0 and seconds > 0:  # otherwise another attempt begins here
            steps.append(after["step"])
            rates.append(rows / seconds)
    return steps, rates


def _intervals(logged: Sequence[Line]) -> Iterator[tuple[Line, Line, float]]:
    """Each two consecutive logs of training, and the seconds of the evaluations between them."""
    evaluating, before = 0.0, None
    for line in logged:
        if "eval_runtime" in line:
            evaluating += line["eval_runtime"]
        elif "loss" in line and "seconds" in line and "rows" in line:
            if before is not None:
                yield before, line, evaluating
            evaluating, before = 0.0, line


def _kept_units(logged: Sequence[Line]) -> KeptUnits | None:
    """The curves of all groups; for a step that ran twice, its last counts."""
    if not logged:
        return None
    by_step = {line["step"]: line["kept"] for line in logged}
    steps = sorted(by_step)
    curves = {group: (steps, [by_step[step][group] for step in steps]) for group in by_step[steps[0]]}
    return KeptUnits(logged[-1]["of"], curves)


def _survivors(folder: Path) -> Survivors:
    """Read from the plan of a compact folder, without its weights: the dense model is built on the `meta` device."""
    dense = _dense(folder)
    plan = Plan.load(folder / "plan.json", dense)
    space = plan.space(dense)
    reading, table = plan.read(space), space.table
    heads = {
        axis: {block: reading.by_head(f"{block}.{axis}").sum(dim=1).tolist() for block in table.blocks}
        for axis in ("qk", "vo")
    }
    return Survivors(table.head_dim, heads, {group.name: group.size for group in space.groups})


def _dense(folder: Path) -> PreTrainedModel:
    """The model of a compact folder before its cut, on the `meta` device."""
    config = read_config(folder)
    config.secateur = config.auto_map = None
    try:
        auto = getattr(transformers, compact.auto_class(str((config.architectures or [""])[0])))
        kind: Any = compat.stock_class(auto, type(config))
        with torch.device("meta"):
            return getattr(kind, "stock", kind)(config)  # ours, once it is registered, knows the stock one
    except DAMAGE as error:
        raise UserError(f"{folder}/config.json describes no model that can be built ({error})") from error
