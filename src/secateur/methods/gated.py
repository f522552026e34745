"""Methods that learn a gate or score for every unit: the budget sets how many units are kept, training learns which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.budget.units import choose_exactly
from secateur.methods.method import Amount, Waiting
from secateur.methods.noise import generator, seed_or_default
from secateur.methods.options import number, truth
from secateur.system.model_state import device_of


def xavier_bound(rows: float, columns: float) -> float:
    """`sqrt(6 / (rows + columns))`, of a matrix whose values are sampled uniformly (Glorot and Bengio, 2010)."""
    return (6.0 / (rows + columns)) ** 0.5


class Gated(Waiting):
    """Keeps the highest-scored units, as many as the last share of the schedule allows; any unit may be reopened.

    In a space that counts units, that number is fixed. In a space that counts parameters, it is the number of
    highest-scored units that fit, including units that are dead because of others, and it may change with the scores.

    Args:
        share: the schedule of the run; a number is the share throughout.
        density: the same as `share`, where parameters are counted.
        learning_rate: of the gates, above 0.
        decay: whether the learning rate follows the schedule of the run; if not, it is constant.
        seed: of all random numbers, the same on every rank; by default torch's own (`set_seed`).

    Attributes:
        count: K, the number of units to keep.
        draws: the number of samples taken in training.

    Raises:
        UserError: the share is out of reach, the space counts neither parameters nor units, or a number is not in its
            range.
    """

    budgets = ("parameters", "units")
    monotone = False
    defaults = {"target.units": ("head",), "distillation.temperature": 4.0}

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        learning_rate: float,
        decay: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density)
        self.learning_rate, self.decay = number("learning_rate", learning_rate, above=0.0), truth("decay", decay)
        self.seed = seed_or_default(seed)
        self.draws, self.count = 0, len(space)

    def initial_values(self, bound: Tensor | float | None = None) -> Tensor:
        """`(N,)`, sampled uniformly between minus a bound and the bound, a number or one for each unit, `(N,)`.

        By default it is Xavier's for the matrix of groups x units of a group. The values depend on the seed alone.
        """
        if bound is None:
            rows = len(self.space.groups)
            bound = xavier_bound(rows, len(self.space) / rows)
        noise = torch.rand(len(self.space), generator=torch.Generator().manual_seed(self.seed)) * 2 - 1
        return (bound * noise).to(device_of(self.space.model))

    def uniform_noise(self, like: Tensor) -> Tensor:
        """`(N,)`, sampled uniformly from (0, 1) on the device of `like` and in its dtype.

        It depends on the seed and on `draws` alone, so that all ranks get the same. `draws` counts in training only,
        because a single rank may evaluate or log.
        """
        own = generator(like.device, self.seed, self.draws)
        self.draws += self.training
        noise = torch.rand(len(self.space), generator=own, device=like.device, dtype=like.dtype)
        limits = torch.finfo(like.dtype)
        return noise.clamp(limits.tiny, 1.0 - limits.eps)

    def group_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter group of the gates, for `param_groups`: without weight decay, at `learning_rate`."""
        group: dict[str, Any] = {"params": [parameter], "lr": self.learning_rate, "weight_decay": 0.0}
        return group if self.decay else {**group, "constant": True}

    def leading(self, share: float) -> Tensor:
        """`(N,)` bool: the highest-scored units within a share, including those that are dead because of others."""
        return self.space.leading(self.scores(), share, alive=self.alive)

    def kept_at_present(self) -> Tensor:
        """`(N,)` bool: all units before pruning begins, then the highest-scored ones within the present share."""
        return self.leading(self.share_schedule(self.progress)) if self.begun else self.alive

    def update_count(self) -> None:
        self.count = int(self.leading(self.share_schedule.stop).sum())

    def advance(self, progress: float) -> None:
        super().advance(progress)
        self.update_count()

    def reached_target(self) -> bool:
        return self.progress >= self.share_schedule.end

    def chosen(self, share: float) -> Tensor:
        return self.space.choose(self.scores(), share, alive=self.alive).float()

    def exactly(self, count: int) -> Tensor:
        return choose_exactly(self.space, self.scores(), count, alive=self.alive).float()

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.draws, self.count, self.seed], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.count, self.seed = (int(number) for number in state[-3:])
