"""The samplers of a sweep, by Optuna.

Each trial has random numbers of its own, by the seed and its number: two workers that begin at once do not choose the
same values, and one worker alone chooses the same ones each time. A grid gives each trial the combination of its place
among all trials, so that several workers run each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from secateur.run.sweep.block import Point, Sweep

MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
"""Name -> a sampler with a seed. Optuna's TPE takes several objectives, and running trials as bad ones."""


def sampler_of(sweep: Sweep, place: Callable[[Study, int], int]) -> BaseSampler:
    """The sampler of a sweep.

    Args:
        place: the number of a trial -> its place among those that count.
    """
    if sweep.block.sampler == "grid":
        return Grid(sweep.grid, place)
    return Seeded(MAKERS[sweep.block.sampler], sweep.block.seed)


class Seeded(BaseSampler):
    """A sampler that begins anew for each trial, with a seed of its own: of no other trial, and of no other sweep's."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner = self.make(int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]))
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)


class Grid(BaseSampler):
    """All combinations, one after the other."""

    def __init__(self, points: Sequence[Point], place: Callable[[Study, int], int]) -> None:
        self.points, self.place = points, place

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.points[self.place(study, trial.number) % len(self.points)][param_name]
