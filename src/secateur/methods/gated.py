"""Methods that learn a gate for every unit: the budget fixes how many units are kept, and training learns which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.budget.units import best
from secateur.methods.method import Amount, Method
from secateur.methods.noise import generator, seed_or_default


class Gated(Method):
    """Keeps the highest-scored units, as many as the last share of the schedule allows; any of them may return.

    In a space that counts units that is a fixed number. In a space that counts parameters it is as many of the
    highest-scored units as fit, including units that are dead because of others, and it may change with the scores.

    Args:
        share: the schedule of the run; a plain number is the share throughout.
        density: the share, where parameters are counted.
        learning_rate: of the gates.
        decay: whether the learning rate follows the schedule of the run; if not, it is constant.
        seed: of all random numbers, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: what is asked for is out of reach, or the space counts neither parameters nor units.
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
        self.learning_rate, self.decay = learning_rate, decay
        self.seed = seed_or_default(seed)
        self.draws, self.count = 0, len(space)

    def drawn(self, bound: float) -> Tensor:
        """`(N,)`, sampled uniformly from (-bound, bound); depends on the seed alone."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(len(self.space), generator=generator) * 2 - 1
        return (bound * noise).to(self.space.model.device)

    @property
    def spread(self) -> float:
        """Xavier's bound for the matrix of groups x units of a group: `sqrt(6 / (rows + columns))`."""
        rows = len(self.space.groups)
        return (6.0 / (rows + len(self.space) / rows)) ** 0.5

    def uniform(self, like: Tensor) -> Tensor:
        """`(N,)`, sampled uniformly from (0, 1) on the device; depends on the seed and the number of samples alone.

        All ranks therefore get the same. Samples are counted in training only, because one rank may evaluate or log by
        itself.
        """
        own = generator(like.device, self.seed, self.draws)
        self.draws += self.training
        noise = torch.rand(len(self.space), generator=own, device=like.device, dtype=like.dtype)
        tiny = torch.finfo(like.dtype)
        return noise.clamp(tiny.tiny, 1.0 - tiny.eps)

    @property
    def begun(self) -> bool:
        """Whether anything is masked yet."""
        return self.progress >= self.asked.begin

    def group_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter group of the gates, for `param_groups`: without weight decay, at `learning_rate`."""
        group: dict[str, Any] = {"params": [parameter], "lr": self.learning_rate, "weight_decay": 0.0}
        return group if self.decay else {**group, "constant": True}

    def leading(self, share: float) -> Tensor:
        """`(N,)` bool: the highest-scored units within a share, with those that are dead because of others."""
        return self.space.leading(self.scores(), share, alive=self.alive)

    def advance(self, progress: float) -> None:
        super().advance(progress)
        self.count = int(self.leading(self.asked.stop).sum())

    def settled(self) -> bool:
        return self.progress >= self.asked.end

    def chosen(self, share: float) -> Tensor:
        return self.space.choose(self.scores(), share, alive=self.alive).float()

    def exactly(self, count: int) -> Tensor:
        return best(self.space, self.scores(), count, alive=self.alive).float()

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.draws, self.count, self.seed], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.count, self.seed = (int(number) for number in state[-3:])
