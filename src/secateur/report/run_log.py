"""The logs of a run folder: what training logged, and how many units were kept at each step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from secateur.report import kept_heads
from secateur.report.kept_heads import KeptHeads
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion

Line: TypeAlias = Mapping[str, Any]
Curve: TypeAlias = tuple[list[float], list[float]]
"""Steps of a stage, and a value at each step."""
LOG, PRUNED = "log.jsonl", "pruned.jsonl"
FORMAT = FileFormat()
"""Of each line of the two logs."""


SCORING = ("eval_runtime", "ramp_runtime")
"""Keys of a line about scores: the seconds that they took, of an evaluation or of the rows held out of the ramp."""


@dataclass(frozen=True)
class Stage:
    """What training logged in one stage, over all its attempts.

    Attributes:
        steps: number of steps of the whole stage.
        lines: as they were logged; of a step that ran twice, those of the last time.
        rates: training examples per second between two logs, the time of evaluations excluded; empty for a run that
            did not count its rows.
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
class KeptUnits:
    """The number of units of each group that were kept, over the `steps` of the prune stage: group -> curve.

    Attributes:
        of_run: steps of the whole run, of which this stage is the first part; None for a log that does not tell it.
    """

    steps: int
    curves: Mapping[str, Curve]
    of_run: float | None = None


@dataclass(frozen=True)
class RunLog:
    """What a run folder has logged; what the run did not write is empty or None.

    Attributes:
        stages: in the order in which they ran.
        kept_units: the units kept over the prune stage.
        kept_heads: what the run's model kept of each head.
        unread: number of damaged lines in the logs, such as one cut off by a full disk.
    """

    stages: tuple[Stage, ...]
    kept_units: KeptUnits | None
    kept_heads: KeptHeads | None
    unread: int


def check(folder: Path) -> None:
    """Check that the logs of a run, if it has any, can be read.

    Raises:
        NewerVersion: a later version of secateur wrote them.
    """
    for name in (LOG, PRUNED):
        _lines(folder / name, ())


def read(folder: Path) -> RunLog:
    """The logs of a run, finished or not.

    Raises:
        UserError: the model in the folder is damaged, or a later version wrote the logs.
    """
    logged, unread = _lines(folder / LOG, ("stage", "step", "of"))
    kept, unread_counts = _lines(folder / PRUNED, ("step", "of", "kept"))
    names = dict.fromkeys(line["stage"] for line in logged)
    stages = tuple(_stage(name, [line for line in logged if line["stage"] == name]) for name in names)
    heads = kept_heads.read(folder / "model") if (folder / "model").is_dir() else None
    return RunLog(stages, _kept_units(kept), heads, unread + unread_counts)


def _lines(path: Path, needed: Sequence[str]) -> tuple[list[Line], int]:
    """The lines of a log that have the needed keys, and the number of the other lines; no lines without a log."""
    if not path.is_file():
        return [], 0
    lines = [_parsed(text, path) for text in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    good: list[Line] = [line for line in lines if all(key in line for key in needed)]
    return good, len(lines) - len(good)


def _parsed(text: str, path: Path) -> Line:
    """The values of a line, none if it is damaged.

    Raises:
        NewerVersion: a later version wrote it.
    """
    try:
        return FORMAT.current(json.loads(text), path)
    except NewerVersion:
        raise
    except (ValueError, UserError, RecursionError):
        return {}


def _stage(name: str, logged: Sequence[Line]) -> Stage:
    """The lines of one stage; an attempt that resumes from a checkpoint logs the steps after it again."""
    last = {(line["step"], *(kind in line for kind in (*SCORING, "train_runtime"))): line for line in logged}
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
        if scoring := [line[kind] for kind in SCORING if kind in line]:
            evaluating += sum(scoring)
        elif "loss" in line and "seconds" in line and "rows" in line:
            if before is not None:
                yield before, line, evaluating
            evaluating, before = 0.0, line


def _kept_units(logged: Sequence[Line]) -> KeptUnits | None:
    """The curves of all groups; of a step that ran twice, the last counts."""
    if not logged:
        return None
    by_step = {line["step"]: line["kept"] for line in logged}
    steps = sorted(by_step)
    curves = {group: (steps, [by_step[step][group] for step in steps]) for group in by_step[steps[0]]}
    return KeptUnits(logged[-1]["of"], curves, _steps_of_run(logged[-1]))


def _steps_of_run(line: Line) -> float | None:
    """The steps of the whole run, by the progress of a step of its first stage."""
    return line["step"] / line["progress"] if line.get("progress") else None
