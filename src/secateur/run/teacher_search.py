"""The search for the learning rate and the length with which a teacher is trained, by short trainings.

Each is scored on training rows that are held out of it. The learning rate is doubled while the score gains, or else
halved, as is one at which training diverges; then the number of steps is doubled while that loses no more than the
standard error of the score, because the score of few rows says little, and a longer training seldom harms. The teacher
is trained on all rows afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from secateur.run.trial_records import gain

PARTS = 32
"""The first trainings are this part of all the steps that the search may take with what follows it."""

RATES = 3
"""Trainings at least for the learning rate: at the first one, twice that, and then twice that again or half of it."""


USUAL_LENGTH = 2
"""The length that a search usually chooses, in first trainings: that of STS-B with 1,000 rows (RESULTS.md)."""


@dataclass(frozen=True)
class Setting:
    """How a teacher is trained: the highest learning rate, and the number of optimizer steps."""

    learning_rate: float
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


Score: TypeAlias = Callable[[Setting], tuple[float | None, float]]
"""Trains a model by a setting, and returns its score, None if the training diverges, and the standard error of that."""


class TeacherSearch:
    """A search from a first setting on.

    Args:
        first: the setting that is tried first.
        score: of a setting.
        steps: the optimizer steps of all trainings at most, the last one included, for which half of them are left.
        greater_is_better: whether a larger score is better.

    Attributes:
        best: the setting to choose so far.
    """

    def __init__(self, first: Setting, score: Score, steps: int, greater_is_better: bool = True) -> None:
        self._score, self._steps, self._greater_is_better = score, steps, greater_is_better
        self._taken, self._diverged = 0, set[Setting]()
        self.best, (self._best_score, _) = first, self._scored(first)

    def choose_rate(self) -> None:
        """Double the learning rate of the best setting while the score gains; if it never does, halve it.

        One at which training diverges is halved, and not doubled.
        """
        for factor in (0.5,) if self._halved_while_diverging() else (2.0, 0.5):
            start = self.best
            while self._gains(self._at(factor)):
                pass
            if self.best is not start:
                return

    def _halved_while_diverging(self) -> bool:
        """Halve the learning rate until training does not diverge; returns whether that was tried."""
        first = self.best
        while self.best in self._diverged and self._affords(slower := self._at(0.5)):
            self.best, (self._best_score, _) = slower, self._scored(slower)
        return self.best is not first

    def _at(self, factor: float) -> Setting:
        """The best setting at a multiple of its learning rate."""
        return replace(self.best, learning_rate=factor * self.best.learning_rate)

    def choose_length(self, other_rates: bool) -> int:
        """Double the steps of the best setting while that loses no more than the standard error.

        Args:
            other_rates: whether half of the learning rate is tried where twice the steps lose.

        Returns:
            The steps of the last training: those of the best setting, or, if longer trainings were better to the end,
            all that are left.
        """
        gained = True
        while self._affords(longer := replace(self.best, steps=2 * self.best.steps)):
            slower, before = replace(longer, learning_rate=longer.learning_rate / 2), self._best_score
            if not (self._gains(longer, about=True) or (other_rates and self._gains(slower))):
                return self.best.steps
            gained = self._best_score > before
        return max(self.best.steps, self._steps - self._taken) if gained else self.best.steps

    def _gains(self, setting: Setting, about: bool = False) -> bool:
        """Whether a setting, which becomes the best one, is better than that, or with `about` as good by its error."""
        if not self._affords(setting):
            return False
        score, error = self._scored(setting)
        about = about and setting not in self._diverged
        better = score > self._best_score or (about and score + error >= self._best_score)
        if better:
            self.best, self._best_score = setting, max(score, self._best_score)
        return better

    def _affords(self, setting: Setting) -> bool:
        return self._taken + setting.steps <= self._steps // 2

    def _scored(self, setting: Setting) -> tuple[float, float]:
        """The score of a setting, larger where it is better, and its standard error."""
        self._taken += setting.steps
        score, error = self._score(setting)
        if score is None:
            self._diverged.add(setting)
        return gain(score, self._greater_is_better), error


def usual_trainings(first: Setting, steps: int, longest: int, fixed: int | None, open_rate: bool) -> list[int]:
    """The optimizer steps of each training of a search that goes as usual, the last one included.

    The second rate is the best, and longer trainings gain up to a number of steps.

    Args:
        first: the setting that is tried first.
        steps: of all trainings at most.
        longest: the number of steps up to which longer trainings gain.
        fixed: the steps of the last training, where they are not searched.
        open_rate: whether the rate is searched.
    """
    taken: list[int] = []

    def score(setting: Setting) -> tuple[float, float]:
        taken.append(setting.steps)
        doublings = math.log2(setting.learning_rate / first.learning_rate)
        return -abs(math.log2(setting.steps / longest)) - abs(doublings - open_rate), 0.0

    search = TeacherSearch(first, score, steps)
    if open_rate:
        search.choose_rate()
    last = search.choose_length(open_rate) if fixed is None else fixed
    return [*taken, last]
