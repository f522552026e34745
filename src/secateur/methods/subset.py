"""DSP: differentiable subset pruning (Li, Cotterell and Sachan, TACL 2021, arXiv 2108.04657).

Equations, by the sections of the specification, which follows the published code:
    sec 2  a learned score w for every head, in one flat vector; here for units of any kind   `learned_scores`
    sec 3  scores + Gumbel noise, K successive softmaxes; the gates are their sum             `relaxed_top_k`
    sec 4  straight-through: gates of the K highest scores, with the gradient of the scores   `_straight_through_gates`
    sec 6  the temperature decays exponentially; K is constant                                `temperature`
    sec 8  the plan keeps the K highest scores, without noise                                 `exactly`, `chosen`

Where it differs from the published code:
    1. The relaxation is computed from logarithms of probabilities, and a unit with a probability of 1 is removed from
       the next rounds exactly. So there are no NaN in float32 and no overflowing gradients in float64; the gates are
       the same up to rounding. Below a temperature of 1e-3 the gates are hard. In the published code, gradients there
       are 0 except for spikes of up to 1e24.
    2. In evaluation the masks are the K highest scores, without noise (`faithful`: a sample, as published).
    3. The gradient of the scores is clipped on its own. In the published code it is clipped with that of the model, so
       that a spike of it stops the model for that step.
    4. Noise and temperature depend on the step: they are the same on every rank, and after a restart.
    5. Below a temperature of 1e-3 no noise is added, so that the units that are trained are those that are kept. In
       the published code noise is added throughout, and the subset goes on changing where scores close to the K-th
       differ by less than the standard deviation of the noise (1.28); so is it where `faithful`.
    6. K = N keeps all units, and exactly K units are kept where scores are equal; the published straight-through
       variant fails in the first case and keeps fewer units in the second.
    7. The learning rate of the scores is constant, as in the published code for translation. In that for BERT it
       follows the schedule of the run (`decay`; `faithful` does not set it).
Not reproduced: one shared row of scores for encoder, cross and decoder attention (the space may have any groups);
weight decay of the scores (1e-4 in translation).

In training a gate may exceed 1 while the temperature is high: only the sum of all gates is bounded, by K.
One sample costs K softmaxes over N units. Use it for up to some hundred units, or the straight-through variant, which
costs one sort.
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
from secateur.methods.options import number, pair, truth
from secateur.methods.schedules import Schedule, exponential, linear
from secateur.system.errors import UserError

MIN_TEMPERATURE = 1e-3  # below it the gates are hard and the scores get no gradient
CERTAINTY = 16  # a probability is taken to be 1 if it is within this many machine epsilons of it
MAX_GRADIENT_POWER = 0.4  # gradients between rounds are scaled to at most this power of the largest float


def log1mexp(log_p: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x < 0, by the formula that is accurate on its side of -ln 2."""
    near = log_p > -math.log(2.0)
    low, high = log_p.masked_fill(near, -1.0), log_p.masked_fill(~near, -0.5)
    return torch.where(near, torch.log(-torch.expm1(high)), torch.log1p(-torch.exp(low)))


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform noise in (0, 1): `-log(-log u)`."""
    return -torch.log(-torch.log(uniform))


def relaxed_top_k(perturbed: Tensor, count: int, temperature: float) -> Tensor:
    """Gates `(N,)` that sum to `count`: about `count / N` each at a high temperature, 0 or 1 at a low one.

    `p_j = softmax(r_j / t)`, `r_{j+1} = r_j + log(1 - p_j)`, `m = sum p_j` over `count` rounds. Units at -inf get 0.
    Below `MIN_TEMPERATURE`, and where every softmax is certain, the gates are hard and have no gradient.
    """
    tolerance = CERTAINTY * torch.finfo(perturbed.dtype).eps
    certain_gap = temperature * math.log(len(perturbed) / tolerance)
    if temperature < MIN_TEMPERATURE or _well_separated(perturbed, count, certain_gap):
        return highest(perturbed, count).to(perturbed.dtype)
    remaining, gates = perturbed, torch.zeros_like(perturbed)
    for _ in range(count):
        log_p = torch.log_softmax(remaining / temperature, dim=0)
        gates = gates + log_p.exp()
        selected = log_p > -tolerance
        remaining = (remaining + log1mexp(log_p.masked_fill(selected, -1.0))).masked_fill(selected, -torch.inf)
        if remaining.requires_grad:
            remaining.register_hook(_bounded_gradient)
    return gates


def _well_separated(values: Tensor, count: int, gap: float) -> bool:
    """Whether each of the `count` highest values exceeds the next one by more than the gap."""
    ranked = values.detach().sort(descending=True).values
    return bool(((ranked[:-1] - ranked[1:])[:count] > gap).all())


def _bounded_gradient(gradient: Tensor) -> Tensor:
    """The gradient, scaled down so that its square is finite."""
    limit = torch.finfo(gradient.dtype).max ** MAX_GRADIENT_POWER
    return gradient / (gradient.abs().amax() / limit).clamp(min=1.0)


@register("subset")
class Subset(Gated):
    """Learns which K units to keep, by Gumbel top-k gates with a decaying temperature or by straight-through gates.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: its last value sets K, which is constant. Its begin is when the gates start to act; the temperature
            decays from its begin to its end.
        learning_rate: of the scores (paper: 0.5 for BERT, 0.2 for translation).
        decay: whether the learning rate follows the schedule of the run (paper: yes for BERT, no for translation).
        temperature: at the start and at the end (paper: 1000 to 1e-8 for BERT, 0.1 to 1e-8 for translation).
        straight_through: hard gates without noise, in place of the relaxation.
        clip: norm to which the gradient of the scores is clipped, on its own; 0 for no clipping.
        faithful: scores in float64, and samples in evaluation too.
        seed: of the start and the noise, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: the share is out of reach, the space counts a latency, or an argument is not in its range.
    """

    renamed_state = {"worth": "learned_scores"}
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
        hot, cold = pair("temperature", temperature)
        if not hot > MIN_TEMPERATURE:
            raise UserError(
                f"the temperature begins at {hot:g}, where gates are hard already: begin above {MIN_TEMPERATURE:g}"
            )
        self.temperature = exponential(hot, cold, begin=self.share_schedule.begin, end=self.share_schedule.end)
        self.clip = number("clip", clip, least=0.0)
        self.straight_through, self.faithful = truth("straight_through", straight_through), truth("faithful", faithful)
        start = self.initial_values()
        self.learned_scores = nn.Parameter(start.double() if faithful else start)  # w of the paper
        self.update_count()

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A constant density: K does not change, the temperature does."""
        return linear(density, density, begin=begin, end=end)

    def masks(self) -> Tensor:
        """All ones before pruning begins; then gates in training, and the highest scores in evaluation."""
        if not self.begun or self.count == len(self.space):
            return self.alive.float()
        if self.training or self.faithful:
            return self._straight_through_gates() if self.straight_through else self._sampled_gates()
        return self.kept_at_present().float()

    def kept_at_present(self) -> Tensor:
        """`(N,)` bool: all units before pruning begins, then the K highest scores, without noise."""
        return self.leading(self.share_schedule.stop) if self.begun else self.alive

    def _sampled_gates(self) -> Tensor:
        """`(N,)`: a relaxed subset of `count` units with new noise; at a low temperature the highest scores."""
        temperature = self.temperature(self.progress)
        if temperature < MIN_TEMPERATURE and not self.faithful:
            return highest(self.scores(), self._alive_count()).to(self.learned_scores.dtype)
        perturbed = self._alive_scores() + gumbel(self.uniform_noise(self.learned_scores))
        return relaxed_top_k(perturbed, self._alive_count(), temperature)

    def _straight_through_gates(self) -> Tensor:
        """`(N,)` of 0 and 1; the gradient of every gate, open or closed, is that of its score."""
        kept = highest(self.scores(), self._alive_count()).to(self.learned_scores.dtype)
        return kept + (self.learned_scores - self.learned_scores.detach()) * self.alive

    def _alive_count(self) -> int:
        """The number of units to keep, at most those that are alive."""
        return min(self.count, int(self.alive.sum()))

    def _alive_scores(self) -> Tensor:
        """`(N,)` scores; minus infinity, without a gradient, where a unit is not alive."""
        return self.where_alive(self.learned_scores)

    def param_groups(self) -> list[dict[str, Any]]:
        """The scores, with their own learning rate and clipping, without weight decay."""
        return [{**self.group_of(self.learned_scores), "clip": self.clip}]

    def scores(self) -> Tensor:
        return self._alive_scores().detach()

    @torch.no_grad()
    def log_values(self) -> dict[str, float]:
        """`density` and number `kept` of the units to keep, the `temperature`, and the `gap` after the K-th score."""
        kept = self.kept_at_present()
        ranked = self.scores().sort(descending=True).values
        gap = float(ranked[self.count - 1] - ranked[self.count]) if 0 < self.count < len(ranked) else 0.0
        values = {"density": self.space.density(kept), "kept": float(kept.sum()), "gap": gap}
        return values if self.straight_through else {**values, "temperature": self.temperature(self.progress)}
