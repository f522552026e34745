"""DSP: differentiable subset pruning (Li, Cotterell and Sachan, TACL 2021, arXiv 2108.04657).

Equations, by the sections of the published code's specification:
    sec 2  a score w for every head, of one flat list; here for any units                     `worth`
    sec 3  w + Gumbel noise, K softmaxes one after the other, gates are their sum             `relaxed_top_k`
    sec 4  straight-through: the K highest, the gate's gradient is the score's                `straight_through`
    sec 6  the temperature falls along a line in its logarithm; K does not change             `temperature`
    sec 8  in the end the K highest scores, without noise                                     `exactly`, `chosen`

Where it differs from the published code:
    1. The relaxation is computed from logarithms of probabilities, and a unit that is certain is taken out exactly: no
       NaN in float32, no overflow of gradients in float64. Gates are the same up to rounding. Below a temperature of
       1e-3 they are hard: published, gradients there are 0 but for spikes of up to 1e24.
    2. In evaluation the K highest, without noise (`faithful`: a sample, as published).
    3. The scores' gradient is clipped by itself; published, a spike in it stops the model for that step.
    4. The noise is drawn from the step: the same on every rank, and after a restart. So are the temperature's steps.
    5. Once cold, the highest scores, without noise: what is trained then is what stays. Published, the noise goes on,
       and where scores at the border are closer than it is (1.28), subsets go on changing.
    6. K = N is all units, and equal scores at the border keep K: the straight-through variant fails there, or keeps
       fewer.
Not reproduced: one equal row of scores for encoder, cross and decoder attention (the space may have any); weight decay
on the scores (1e-4 in translation).

In training a gate may be above 1 while the temperature is high: gates sum to K, and that is all they are bounded by.
A sample takes K softmaxes of N: choose units by the hundred, or the straight-through variant, which takes one sort.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.ranking import highest
from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.gated import Gated
from secateur.methods.method import Amount
from secateur.methods.schedules import Schedule, exponential, linear
from secateur.system.errors import UserError

COLD = 1e-3  # below, gates are hard and scores rest: what is left of a gradient are spikes of near ties
CERTAIN = 16  # a probability within so many roundings of 1 is 1
STEEPEST = 0.4  # a gradient between two rounds is scaled down to this power of the largest float: its square is finite


def log1mexp(log_p: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x < 0, by the formula that is exact on its side of -ln 2."""
    near = log_p > -math.log(2.0)
    low, high = log_p.masked_fill(near, -1.0), log_p.masked_fill(~near, -0.5)
    return torch.where(near, torch.log(-torch.expm1(high)), torch.log1p(-torch.exp(low)))


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform noise in (0, 1): `-log(-log u)`."""
    return -torch.log(-torch.log(uniform))


def relaxed_top_k(perturbed: Tensor, count: int, temperature: float) -> Tensor:
    """Gates `(N,)` that sum to `count`: near `count / N` each when hot, 1 for the highest and 0 when cold.

    `p_j = softmax(r_j / t)`, `r_{j+1} = r_j + log(1 - p_j)`, `m = sum p_j` over `count` rounds. Units at -inf get 0.
    Below `COLD`, and where no softmax would doubt, hard gates without a gradient.
    """
    certain = CERTAIN * torch.finfo(perturbed.dtype).eps
    if temperature < COLD or _parted(perturbed, count, temperature * math.log(len(perturbed) / certain)):
        return highest(perturbed, count).to(perturbed.dtype)
    left, gates = perturbed, torch.zeros_like(perturbed)
    for _ in range(count):
        log_p = torch.log_softmax(left / temperature, dim=0)
        gates = gates + log_p.exp()
        taken = log_p > -certain
        left = (left + log1mexp(log_p.masked_fill(taken, -1.0))).masked_fill(taken, -torch.inf)
        if left.requires_grad:
            left.register_hook(_bounded)
    return gates


def _parted(values: Tensor, count: int, gap: float) -> bool:
    """Whether each of the `count` highest is further above the next than the gap: no softmax then doubts."""
    ranked = values.detach().sort(descending=True).values
    return bool(((ranked[:-1] - ranked[1:])[:count] > gap).all())


def _bounded(gradient: Tensor) -> Tensor:
    limit = torch.finfo(gradient.dtype).max ** STEEPEST
    return gradient / (gradient.abs().amax() / limit).clamp(min=1.0)


@register("subset")
class Subset(Gated):
    """Learns which K units to keep: Gumbel top-k gates whose temperature falls, or straight-through ones.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: K is the number of units at its last value, all the time; gates and temperature begin with it, and
            the temperature ends with it.
        learning_rate: of the scores (paper: 0.5 for BERT, 0.2 for translation).
        decay: whether that follows the schedule of the run (paper: yes for BERT, no for translation).
        temperature: from which to which (paper: 1000 to 1e-8 for BERT, 0.1 to 1e-8 for translation).
        straight_through: hard gates without noise, in place of a relaxation.
        clip: norm to which the gradient of the scores is clipped, on its own; 0 for none.
        faithful: scores in float64, and a sample in evaluation too.
        seed: of the start and the noise, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: what is asked for is out of reach, the space counts a latency, or a number is none.
    """

    defaults = {
        **Gated.defaults,
        "method.begin": 0.0,
        "method.ramp": 0.9,
        "method.end": 0.4,
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        learning_rate: float = 0.5,
        decay: bool = False,
        temperature: Sequence[float] = (1000.0, 1e-8),
        straight_through: bool = False,
        clip: float = 1.0,
        faithful: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density, learning_rate=learning_rate, decay=decay, seed=seed)
        if not isinstance(temperature, Sequence) or len(temperature) != 2:
            raise UserError(f"temperature {temperature!r} is no pair: say from which to which it falls")
        if not learning_rate > 0 or not clip >= 0:
            raise UserError(
                f"expected learning_rate above 0 and clip from 0 on, got {learning_rate} and {clip}: raise them"
            )
        hot, cold = map(float, temperature)
        if not hot > COLD:
            raise UserError(f"the temperature begins at {hot:g}, where gates are hard already: begin above {COLD:g}")
        self.temperature = exponential(hot, cold, begin=self.asked.begin, end=self.asked.end)
        self.clip, self.straight_through, self.faithful = clip, straight_through, faithful
        start = self.drawn(self.spread)
        self.worth = nn.Parameter(start.double() if faithful else start)  # w of the paper
        self.count = int(self.leading(self.asked.stop).sum())

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """The density throughout: K does not change, the temperature does."""
        return linear(density, density, begin=begin, end=end)

    def masks(self) -> Tensor:
        """All ones before it begins; then gates when training, else the highest scores."""
        if not self.begun or self.count == len(self.space):
            return self.alive.float()
        if self.training or self.faithful:
            return self._hard() if self.straight_through else self._sampled()
        return self.leading(self.asked.stop).float()

    def _sampled(self) -> Tensor:
        """`(N,)`: a relaxed subset of `count` units, with new noise each time; once cold, the highest scores."""
        temperature = self.temperature(self.progress)
        if temperature < COLD and not self.faithful:
            return highest(self.scores(), self._most()).to(self.worth.dtype)
        perturbed = self._gates() + gumbel(self.uniform(self.worth))
        return relaxed_top_k(perturbed, self._most(), temperature)

    def _hard(self) -> Tensor:
        """`(N,)` of 0 and 1; the gradient of a gate goes to its score as it is, of closed ones too."""
        kept = highest(self.scores(), self._most()).to(self.worth.dtype)
        return kept + (self.worth - self.worth.detach()) * self.alive

    def _most(self) -> int:
        """Units to keep, of those that are left."""
        return min(self.count, int(self.alive.sum()))

    def _gates(self) -> Tensor:
        """`(N,)` scores; minus infinity, without a gradient, where a unit is closed for good."""
        return self.where_alive(self.worth)

    def param_groups(self) -> list[dict[str, Any]]:
        """The scores, with a learning rate and a clip of their own, without decay."""
        return [{**self.group_of(self.worth), "clip": self.clip}]

    def scores(self) -> Tensor:
        return self._gates().detach()

    @torch.no_grad()
    def readings(self) -> dict[str, float]:
        """`density` of the highest scores, `kept` units of these, the `temperature`, and the `gap` at the border."""
        kept = self.leading(self.asked.stop) if self.begun else self.alive
        ranked = self.scores().sort(descending=True).values
        gap = float(ranked[self.count - 1] - ranked[self.count]) if 0 < self.count < len(ranked) else 0.0
        found = {"density": self.space.density(kept), "kept": float(kept.sum()), "gap": gap}
        return found if self.straight_through else {**found, "temperature": self.temperature(self.progress)}
