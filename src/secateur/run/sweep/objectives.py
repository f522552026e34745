"""What a sweep searches: objectives by name, each a number of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite

from secateur.report.report import Report
from secateur.report.size_text import MEGABYTE, Time, leading_time
from secateur.system.errors import UserError

SCORE = "score"


@dataclass(frozen=True)
class Objective:
    """A number of a run.

    Attributes:
        less: whether less is better; None where the metric says it.
        of: the report of a run -> the number; None if the run did not measure it.
        timed: whether it is of a time that the run measures.
    """

    less: bool | None
    of: Callable[[Report], float | None]
    timed: bool = False


def tuned_score(report: Report) -> float:
    """The main score on the rows to tune by; on the validation rows, if none are held out."""
    return report.scores[report.metric] if report.tuning is None else float(report.tuning[SCORE])


def _measured(report: Report, number: Callable[[Time], float]) -> float | None:
    """A number of the time that the report leads with."""
    time = leading_time(report)
    return None if time is None else float(number(time))


OBJECTIVES: Mapping[str, Objective] = {
    SCORE: Objective(None, tuned_score),
    "speedup": Objective(False, lambda report: _measured(report, lambda time: time.speed_up), timed=True),
    "ms": Objective(True, lambda report: _measured(report, lambda time: time.ms), timed=True),
    "mb": Objective(True, lambda report: report.weight_bytes["model"] / MEGABYTE),
    "parameters": Objective(True, lambda report: float(report.parameters["model"])),
}
"""Name -> objective. Times are those of the latency or speed-up that the recipe asks for, else of its largest shape."""


def check_objective(name: str) -> None:
    """Refuse an objective that is not known.

    Raises:
        UserError: it is not.
    """
    if name not in OBJECTIVES:
        near = get_close_matches(name, OBJECTIVES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(OBJECTIVES)}"
        raise UserError(f"objective {name!r} is not known: {hint}")


def values_of(report: Report, objectives: Sequence[str]) -> list[float]:
    """The values of a run by which a sweep judges it.

    Raises:
        UserError: the run did not measure one, or it is no number.
    """
    found = {name: OBJECTIVES[name].of(report) for name in objectives}
    if missing := [name for name, value in found.items() if value is None]:
        raise UserError(f"the run has no {missing[0]}: give measurement.shapes to measure")
    values = [value for value in found.values() if value is not None]
    if endless := [name for name, value in zip(found, values, strict=True) if not isfinite(value)]:
        raise UserError(f"the {endless[0]} of the run is not finite: leave out what makes its training diverge")
    return values
