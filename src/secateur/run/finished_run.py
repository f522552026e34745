"""A finished run: its folder, its report, and the part of its recipe on which the result depends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.run.recipe import LENGTHS, make
from secateur.run.run_values import place_of_teacher

NOT_THE_RECIPE = (
    "seed",
    "data.source",
    "method.shrink",
    "distillation.cache",
    "distillation.cache_gb",
    "training.checkpoints",
    "training.report_to",
    "measurement.shapes",
    "measurement.repeats",
    "measurement.retention",
    "measurement.baselines",
)
"""Dotted keys in which two runs of one recipe may differ: seed, path of the data, measurement and storage."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder and its report."""

    folder: Path
    report: Report

    @property
    def teacher(self) -> str:
        """The place of the dense teacher, as of `place_of_teacher`."""
        return place_of_teacher(self.folder, self.recipe["teacher"], self.recipe["model"])

    @property
    def recipe(self) -> dict[str, Any]:
        """Dotted keys on which the result depends, without the seed; keys newer than the run have their defaults.

        The length and the amount are those that were given; a number of layers that the run has chosen counts as given.
        """
        resolved = _defaults() | dotted(self.report.recipe) | _given(self.report)
        return {key: value for key, value in resolved.items() if key not in NOT_THE_RECIPE}


def _given(report: Report) -> dict[str, Any]:
    """The keys of which the report's recipe has what followed from them: minutes, and the part of the score to keep."""
    given: dict[str, Any] = {}
    if report.length is not None:
        given |= {"training.minutes": report.length["minutes"], "training.steps": None}
    if report.goal is not None:
        given |= {"target.keep_score": report.goal["keep_score"], "target.density": None}
    return given


def _defaults() -> dict[str, Any]:
    """Of keys that a run may not state; each states its length in one of several ways."""
    return dotted(make({"model": "", "data": ""}).to_dict()) | dict.fromkeys(LENGTHS)
