"""A part of the teacher's score as the target of a run: the densities to try, and what a trial has to reach.

A trial is scored on training rows that are held out of it. The teacher has usually been trained on these rows, so that
its score on them is too high to compare with. Therefore the goal is a part of the lower of two scores of the teacher:
on these rows, and on the validation rows, by which the finished model is judged. A trial may lose more of that score
than the finished model, because it recovers over a fraction of the steps (`GAIN`). On the other hand its student starts
from what the teacher knows of the held-out rows, and validation rows may be harder than training rows. So a trial has
to reach the goal by the standard error of its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from secateur.measure.chance import better_than
from secateur.run.recipe import Recipe
from secateur.run.run_rounds import changed, is_open, total_layers, with_layers
from secateur.run.target import layers_to_try, new_method, space_of
from secateur.run.trial_records import ERROR, SCORE
from secateur.system.errors import UserError

LADDER = (0.5, 0.33, 0.22, 0.15, 0.1, 0.07, 0.05, 0.03)
"""Densities to choose from, the largest first: each about two thirds of the one before, so that three trials decide."""

GAIN = 1 / 3
"""What a run loses of the score, in logarithms, is taken to fall with this power of its steps.

With 5.3 times the steps a run loses 0.48 times as much at density 0.05, and 0.57 times as much at 0.03 (GRAIN on SST-2,
RESULTS.md), which are powers of 0.44 and 0.34.
"""


@dataclass(frozen=True)
class TeacherScore:
    """The teacher's main score on some rows.

    Attributes:
        error: its standard error; None where it is not known.
        constant: the score of the best constant prediction for these rows; None where none compares.
    """

    score: float
    error: float | None
    constant: float | None

    @property
    def is_worth_keeping(self) -> bool:
        """Whether it is better than a constant prediction."""
        return better_than(self.constant, self.score, self.error)


@dataclass(frozen=True)
class ScoreGoal:
    """The score that a model has to keep.

    Attributes:
        part: of the teacher's score.
        trial: fraction of the steps of the run that a trial has.
        validation, held_out: the teacher on the rows of each.
    """

    part: float
    trial: float
    validation: TeacherScore
    held_out: TeacherScore

    @property
    def teacher(self) -> float:
        """The score of which a part is to be kept."""
        return min(self.validation.score, self.held_out.score)

    @property
    def needed(self) -> float:
        """The score that a trial has to reach on the held-out rows."""
        return float(self.teacher * self.part ** (self.trial**-GAIN))

    def kept_by(self, trial: Mapping[str, Any]) -> bool:
        """Whether a trial reached the score, by its standard error, and is better than a constant prediction.

        One without a score, because its training diverged, did not.
        """
        if trial[SCORE] is None:
            return False
        surely = trial[SCORE] - (trial[ERROR] or 0.0)
        return surely >= self.needed and better_than(self.held_out.constant, trial[SCORE], trial[ERROR])

    @classmethod
    def from_record(cls, record: Mapping[str, Any], trial: float, constant: float | None) -> ScoreGoal:
        """The goal of a record (`to_dict`), with what it does not have.

        Args:
            constant: the score of the best constant prediction for the held-out rows.
        """
        validation, held_out = (
            TeacherScore(record["teacher"][rows], None, constant) for rows in ("validation", "held_out")
        )
        return cls(record["keep_score"], trial, validation, held_out)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "keep_score": self.part,
            "needed": self.needed,
            "nothing_to_keep": not self.validation.is_worth_keeping,
            "teacher": {"validation": self.validation.score, "held_out": self.held_out.score},
        }


def leaves_density_open(recipe: Recipe) -> bool:
    """Whether the run itself chooses the density (`stages/density.py`)."""
    return recipe.target.keep_score is not None


def with_density(recipe: Recipe, density: float) -> Recipe:
    """The recipe with a density in place of the part of the score to keep, by which the result is still judged."""
    expected = {"retention": recipe.target.keep_score}
    return changed(recipe, target={"density": density, "keep_score": None}, measurement=expected)


def recipes_to_try(recipe: Recipe, model: PreTrainedModel) -> dict[float, Recipe]:
    """Density -> the recipe of its trial, of the densities of the ladder that can be reached, the largest first.

    Args:
        model: before pruning.

    Raises:
        UserError: there is none, for the reason of the last one.
    """
    reached, refused = {}, None
    for density in LADDER:
        wanted = _with_most_layers(with_density(recipe, density), model)
        try:
            new_method(wanted, model, None)
        except UserError as error:
            refused = error
        else:
            reached[density] = wanted
    if refused is not None and not reached:
        raise refused
    return reached


def _with_most_layers(recipe: Recipe, model: PreTrainedModel) -> Recipe:
    """The recipe with as many layers as reach its density, if their number is open and chosen after the density."""
    if not is_open(recipe):
        return recipe
    space = space_of(recipe, model, None)
    return with_layers(recipe, max(layers_to_try([recipe], space)), total_layers(space))


def most_trials(count: int) -> int:
    """The largest number of trials in which `smallest` decides between that many densities."""
    return math.ceil(math.log2(count))


def smallest(densities: Sequence[float], keeps: Callable[[float], bool]) -> float:
    """The smallest density that keeps the score, by bisection: a density is taken to keep what a smaller one keeps.

    The largest is not tried: it is the choice if no other keeps the score.

    Args:
        densities: the largest first.
    """
    kept, lost = 0, len(densities)
    while lost - kept > 1:
        middle = (kept + lost) // 2
        if keeps(densities[middle]):
            kept = middle
        else:
            lost = middle
    return densities[kept]
