"""L0 gates on heads (Voita, Talbot, Moiseev, Sennrich and Titov, ACL 2019, arXiv 1905.09418), led to a given number.

Equations, as the published code of differentiable subset pruning has them, which compares itself with this:
    sec 3  a gate for every head: hard-concrete (Louizos et al., ICLR 2018), beta 0.33, stretched to (-0.1, 1.1)
           in training `sample`, in evaluation `gate_value`: sigmoid(log alpha), without beta
    eq. 8  penalty: strength x the sum of the probabilities that gates are open                    `open_probability`
    (a)    the strength decides how many stay open, and is found by trying                         `readings`: `open`
    (b)    of the gates after training the K highest are kept                                      `exactly`, `chosen`

Where the default differs (`faithful=True` reproduces it, see tests/golden):
    1. The strength is found within the run, by a controller on its logarithm: the share of units that are open and
       should not be is added up, times `rate`, and counts by itself, times 40, which keeps it from swinging. What
       should be open falls from N to K with the schedule. Published, a fixed strength gives some number, and K comes
       from (b) alone.
    2. Gates start open (log alpha 2, and the same noise), and stay in [-5, 5], from where they can return.
    3. In evaluation the units that would be kept at the moment, whole; published, the gates' values.
In both, exactly K units are kept in the end, whole. How many gates were open then (log alpha above 0) is in the log
beside it: where the two differ, (b) had to choose.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.gated import Gated
from secateur.methods.gates import EPSILON, HardConcrete
from secateur.methods.method import Amount
from secateur.methods.schedules import Schedule, linear
from secateur.system.errors import UserError

GATE = HardConcrete(temperature=0.33)
OPEN, WIDEST = 2.0, 5.0  # where gates start, and how far from 0 they may go
PUSH = 40.0  # of what is wrongly open now, beside `rate` for what has been: without it the search swings
STEADY = 25.0  # how far the strength's logarithm may be from 0


@register("voita")
class Voita(Gated):
    """Learns L0 gates with the weights, under a penalty whose strength is led to where K of them stay open.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: the target's way down, `linear(1.0, target, begin=b, end=e)`.
        learning_rate: of the gates; it follows the schedule of the run if `decay` (paper: 0.1, and it does).
        decay: whether it does.
        strength: of the penalty, at first, or where `faithful` throughout (paper: 0.0015 for BERT, 0.05 per token for
            translation, or a sweep).
        rate: of the search: by how much the strength's logarithm moves in a step if all units were wrongly open.
        faithful: the published start, penalty and evaluation.
        seed: of the gates' start and noise, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: what is asked for is out of reach, the space counts a latency, or a number is none.
    """

    defaults = {
        **Gated.defaults,
        "method.begin": 0.02,
        "method.ramp": 0.7,
        "method.end": 0.4,
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        learning_rate: float = 0.1,
        decay: bool = False,
        strength: float = 0.0015,
        rate: float = 0.2,
        faithful: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density, learning_rate=learning_rate, decay=decay, seed=seed)
        if not (learning_rate > 0 and strength > 0 and rate > 0):
            raise UserError(
                "expected learning_rate, strength and rate above 0, got "
                f"{learning_rate}, {strength} and {rate}: raise what is not"
            )
        self.rate, self.faithful = rate, faithful
        self.strength = self.found = float(strength)  # at present, and what the search has come to
        self.log_alpha = nn.Parameter(self.drawn(self.spread) + (0.0 if faithful else OPEN))
        self.count = int(self.leading(self.asked.stop).sum())

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A line: the search follows it."""
        return linear(1.0, density, begin=begin, end=end)

    # Masks

    def gates(self) -> Tensor:
        """`(N,)` log alpha; minus infinity, without a gradient, where a unit is closed for good."""
        return self.where_alive(self.log_alpha)

    def masks(self) -> Tensor:
        """All ones before it begins; then a sample when training, else what would be kept."""
        if not self.begun:
            return self.alive.float()
        if self.training:
            return GATE.sample(self.gates(), self.uniform(self.log_alpha))
        return GATE.noiseless(self.scores()) if self.faithful else self.leading(self.asked(self.progress)).float()

    # The penalty, and the search for its strength

    def penalty(self) -> Tensor | float:
        """Strength x the sum of the probabilities that gates are open: `()`."""
        if not self.begun:
            return 0.0
        chances = GATE.open_probability(self.gates()).clamp(EPSILON, 1.0 - EPSILON)  # as the published code clamps it
        return self.strength * (chances * self.alive).sum()

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        if not self.faithful:
            self.log_alpha.clamp_(-WIDEST, WIDEST)
        super().advance(progress)
        if not self.faithful and self.begun:
            excess = (self.open() - self.target()) / len(self.space)
            self.found = _bounded(math.log(self.found) + self.rate * excess)
            self.strength = _bounded(math.log(self.found) + PUSH * excess)

    def open(self) -> int:
        """Gates that are open, as they are counted when published: log alpha above 0."""
        return int((self.scores() > 0).sum())

    def target(self) -> float:
        """Units that are to be open now: N before it begins, K in the end."""
        share, last = self.asked(self.progress), self.asked.stop
        left = (share - last) / (1.0 - last) if last < 1.0 else 0.0
        return self.count + left * (len(self.space) - self.count)

    def param_groups(self) -> list[dict[str, Any]]:
        """The gates, with a learning rate of their own, without decay."""
        return [self.group_of(self.log_alpha)]

    # What others ask

    def scores(self) -> Tensor:
        return self.gates().detach()

    @torch.no_grad()
    def readings(self) -> dict[str, float]:
        """`open` gates (log alpha above 0) beside the units `kept`, the `density` of these, and the `strength`."""
        kept = self.leading(self.asked(self.progress)) if self.begun else self.alive
        return {
            "density": self.space.density(kept),
            "kept": float(kept.sum()),
            "open": float(self.open()),
            "strength": self.strength,
        }

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.strength, self.found], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state[:-2])
        self.strength, self.found = (float(number) for number in state[-2:])


def _bounded(logarithm: float) -> float:
    return math.exp(min(max(logarithm, -STEADY), STEADY))
