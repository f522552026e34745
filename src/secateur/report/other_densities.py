"""What a run would have scored at other densities, predicted from the scores on its way to its own.

A run passes larger densities while it prunes (the ramp), and is scored there before recovery on a few held-out training
rows. In terms of gaps, the teacher's score less the model's, with d0 the run's own density:

    gap(d) = before(d) * left(d)            left(d) = gap(d0) / before(d0) * (ln d / ln d0) ** POWER
    score(d) = teacher - gap(d)             POWER = 1

`before(d)` is the gap of the ramp, on the rows that are held out of it, made monotone by isotonic regression (Barlow,
Bartholomew, Bremner and Brunk, Statistical Inference under Order Restrictions, 1972) and linear in ln d in between.
`left(d)` is the part of it that recovery leaves. At d0 the run has measured it, where `gap(d0)` is that of the
recovered model on the scored rows. It is 0 at density 1, where nothing is removed, and is taken to be linear in ln d,
so that every halving of the density adds as much to it. This one assumption is ours: it was set after four densities
of GRAIN on SST-2 and three of an embedding model (RESULTS.md), whose gaps have a POWER between 0.4 and 2.
`benchmarks/walk.py` measures the error of what is predicted.

The interval spans POWER 0 (recovery leaves the same part at every density) to 2, and two standard errors of the model's
score and of the ramp's on either side. Other assumptions: a run for another density has the same recipe, and keeps as
many layers, and the scores on held-out training rows and on the scored rows fall in proportion. Nothing is predicted of
densities that the recipe cannot reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.report.report import Report

DENSITIES = (0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.03)
"""Densities of which a report predicts the score, the largest first."""
POWER, POWERS = 1.0, (0.0, 2.0)
"""The power of ln d with which what recovery leaves grows, and the lowest and highest for the interval."""
ERRORS = 2.0
"""Standard errors on either side of an interval."""
NEAR = 0.1
"""Densities that differ by less than this part are the same for a table."""
NUMBER_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Point:
    """A score on the ramp, before recovery, and its standard error (0: not known)."""

    density: float
    score: float
    error: float = 0.0


@dataclass(frozen=True)
class Walk:
    """What a run measured at its own density, and on the way there.

    Attributes:
        density, score, error: of the finished run, on the scored rows.
        teacher: its score on the scored rows.
        points: scores on the held-out rows, the largest density first.
        held_out: the teacher's score on the held-out rows.
        constant: score of the best constant prediction on the scored rows; 0 if none is known.
        reach: the lowest and the highest density that the recipe can reach.
    """

    density: float
    score: float
    teacher: float
    points: tuple[Point, ...]
    held_out: float
    error: float = 0.0
    constant: float = 0.0
    reach: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Expected:
    """The expected score at a density, and its interval.

    Attributes:
        extrapolated: whether the run did not come as low as this density.
    """

    density: float
    score: float
    low: float
    high: float
    extrapolated: bool = False


@dataclass(frozen=True)
class Ramp:
    """The gaps of the ramp as a function of the density, not falling as the density does.

    Attributes:
        logs: ln of the densities, rising; `gaps` and `errors` are at each of them.
    """

    logs: Sequence[float]
    gaps: Sequence[float]
    errors: Sequence[float]

    @classmethod
    def of(cls, walk: Walk) -> Ramp:
        from sklearn.isotonic import isotonic_regression  # which takes a second to import

        points = sorted(walk.points, key=lambda point: point.density)
        gaps = isotonic_regression([walk.held_out - point.score for point in points], y_min=0.0, increasing=False)
        logs = [math.log(point.density) for point in points]
        return cls(logs, gaps.tolist(), [point.error for point in points])

    def gap(self, density: float) -> float:
        """The gap at a density; beyond the ends, that of the end."""
        return _between(self.logs, self.gaps, density)

    def error(self, density: float) -> float:
        """The standard error of the gap at a density."""
        return _between(self.logs, self.errors, density)


def predict(walk: Walk, densities: Sequence[float] = DENSITIES) -> list[Expected]:
    """The expected scores at other densities, by the law above.

    Left out are the run's own density, those out of reach, and all but the largest of those below the run's own, to
    which the law is extrapolated.

    Args:
        densities: in (0, 1), the largest first.
    """
    return [_expected(walk, Ramp.of(walk), density) for density in _others(walk, densities)]


def _others(walk: Walk, densities: Sequence[float]) -> list[float]:
    """The densities for which a score is predicted."""
    least, largest = walk.reach
    within = [density for density in densities if least <= density <= largest]
    lower = [density for density in within if density < walk.density * (1 - NEAR)]
    return [density for density in within if density > walk.density * (1 + NEAR)] + lower[:1]


def _expected(walk: Walk, ramp: Ramp, density: float) -> Expected:
    gap, own = max(0.0, walk.teacher - walk.score), ramp.gap(walk.density)
    shape = ramp.gap(density) / own if own else 1.0  # a ramp that lost nothing is flat
    removed = math.log(density) / math.log(walk.density)
    gaps = [gap * shape * removed**power for power in (POWER, *POWERS)]
    left = gap / own * removed if own else 0.0
    noise = ERRORS * math.hypot(walk.error, left * ramp.error(density))
    expected, low, high = (walk.teacher - one for one in (gaps[0], max(gaps), min(gaps)))
    floor, most = min(walk.constant, walk.score), 1.0 if walk.teacher <= 1 else math.inf  # 1: of a fraction
    expected, low, high = (max(floor, min(most, one)) for one in (expected, low - noise, high + noise))
    return Expected(density, expected, low, high, density < walk.density)


def _between(xs: Sequence[float], ys: Sequence[float], density: float) -> float:
    import numpy as np

    return float(np.interp(math.log(density), xs, ys))


def walk_of(report: Report) -> Walk | None:
    """The walk of a run from which other densities are predicted.

    None for one without scores on its ramp, without a retention, that removed nothing, or whose recipe reaches none of
    `DENSITIES` beside its own. Of a run in rounds an older version has the scores of all rounds, which are no ramp.
    """
    density, ramp = report.density["prunable"], report.ramp or {"points": []}
    points = tuple(_point(point) for point in ramp["points"] if point["density"] > 0)
    of_all_rounds = "reach" not in ramp and report.recipe.get("target", {}).get("layers") is not None
    if len(points) < 2 or report.retention is None or not 0 < density < 1 or of_all_rounds:
        return None
    walk = Walk(
        density,
        report.scores[report.metric],
        report.teacher_scores[report.metric],
        points,
        ramp["teacher"],
        report.standard_error or 0.0,
        report.baseline or 0.0,
        tuple(ramp.get("reach", (0.0, 1.0))),
    )
    return walk if _others(walk, DENSITIES) else None


def _point(values: Any) -> Point:
    return Point(values["density"], values["score"], values["standard_error"] or 0.0)


def layer_bytes(report: Report, density: float) -> float | None:
    """Bytes of the layers at a density, linear between the run's own and the unpruned ones; None if not known.

    The layers have prunable parameters in proportion to the density, and others in a constant number. Tiles that are
    removed may remain stored, so that of them nothing is said.
    """
    if report.bytes is None or "filled" in report.density:
        return None
    if (unpruned := _unpruned_layers(report)) is None:
        return None
    whole = unpruned * NUMBER_BYTES[report.recipe.get("storage", {}).get("dtype", "fp32")] / 4
    own, at = report.bytes["model"]["layers"], report.density["prunable"]
    return own + (whole - own) * (density - at) / (1 - at)


def _unpruned_layers(report: Report) -> int | None:
    """Bytes of the layers of the unpruned student in float32.

    A report of before has those of the teacher alone, which are the student's if it started from it.
    """
    if (found := (report.unpruned or {}).get("layer_bytes")) is not None:
        return found
    of_another = report.recipe.get("distillation", {}).get("start") == "model" and report.recipe.get("teacher")
    return None if report.bytes is None or of_another else report.bytes["teacher"]["layers"]
