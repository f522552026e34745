"""L0 gates on attention heads (Voita, Talbot, Moiseev, Sennrich and Titov, ACL 2019, arXiv 1905.09418).

Equations, as in the code of differentiable subset pruning (Li et al., TACL 2021), which compares with this method:
    sec 3  a hard-concrete gate for every head (Louizos et al., ICLR 2018), temperature 0.33, stretched to (-0.1, 1.1);
           sampled in training, without noise in evaluation                                       `masks`
    code   log alpha starts uniform within Xavier's bound, sqrt(6 / (H + 1)) for the H heads of a layer
    eq. 8  penalty: strength x the expected number of open gates                                  `penalty`
    (a)    the strength decides how many gates stay open; the paper tunes it by hand              `log_values`: `open`
    (b)    after training, the K gates of the highest log alpha are kept                          `exactly`, `chosen`

Where the default differs (`faithful=True` reproduces the published code, see tests/golden):
    1. The strength is found during the run by a proportional-integral controller on its logarithm. The error is the
       fraction of units that are open beyond the target; its sum is multiplied by `rate`, and its present value by 40,
       which damps oscillations. The target falls from N to K with the schedule. The published code has a fixed
       strength, so that the number of open gates is not controlled, and K comes from (b) alone.
    2. The gates start open (log alpha 2 plus the published noise) and are clamped to [-5, 5], from where they can
       still return.
    3. In evaluation, the masks are 1 for the units that a plan would keep at present. In the published code they are
       the noiseless values of the gates.
    4. The learning rate of the gates is constant. In the published code it follows the schedule of the run (`decay`).
With and without `faithful`, the plan has exactly K units, with masks of 1. The log has the number of gates that were
open (log alpha above 0): where it differs from K, the selection (b) has changed the model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.gated import Gated, xavier_bound
from secateur.methods.gates import EPSILON, HardConcrete
from secateur.methods.method import Amount
from secateur.methods.options import number, truth
from secateur.methods.schedules import Schedule, linear

GATE = HardConcrete(temperature=0.33)
START = 2.0  # log alpha of a gate at the start, without the noise
MAX_LOG_ALPHA = 5.0  # in absolute value
PROPORTIONAL_GAIN = 40.0  # of the controller; the integral gain is `rate`
MAX_LOG_STRENGTH = 25.0  # in absolute value


@register("voita")
class Voita(Gated):
    """Learns L0 gates together with the weights; a controller sets the penalty so that K gates stay open.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: the schedule of the target, `linear(1.0, target, begin=b, end=e)`.
        learning_rate: of the gates (paper: 0.1).
        decay: whether the learning rate follows the schedule of the run (paper: yes); by default where `faithful`.
        strength: of the penalty at the start, or throughout where `faithful` (paper: 0.0015 for BERT, 0.05 per token
            for translation, or a sweep).
        rate: integral gain of the controller: the change of the logarithm of the strength in one step if all units
            were open beyond the target.
        faithful: the published start, penalty, evaluation and, unless `decay` is set, learning rate.
        seed: of the start and the noise of the gates, the same on every rank; by default torch's own (`set_seed`).

    Attributes:
        integrated_strength: the strength by the integral part of the controller alone.

    Raises:
        UserError: the share is out of reach, the space counts a latency, or a number is not positive.
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
        decay: bool | None = None,
        strength: float = 0.0015,
        rate: float = 0.2,
        faithful: bool = False,
        seed: int | None = None,
    ) -> None:
        decay = truth("faithful", faithful) if decay is None else decay
        super().__init__(space, share, density, learning_rate=learning_rate, decay=decay, seed=seed)
        self.rate, self.faithful = number("rate", rate, above=0.0), truth("faithful", faithful)
        self.strength = self.integrated_strength = number("strength", strength, above=0.0)
        bounds = [torch.full((group.size,), xavier_bound(1, group.size)) for group in space.groups]
        self.log_alpha = nn.Parameter(self.initial_values(torch.cat(bounds)) + (0.0 if faithful else START))
        self.update_count()

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A straight line, which the controller can follow."""
        return linear(1.0, density, begin=begin, end=end)

    # Masks

    def gates(self) -> Tensor:
        """`(N,)` log alpha; minus infinity, without a gradient, where a unit is not alive."""
        return self.where_alive(self.log_alpha)

    def masks(self) -> Tensor:
        """All ones before pruning begins; then a sample in training, and the units to keep in evaluation."""
        if not self.begun:
            return self.alive.float()
        if self.training:
            return GATE.sample(self.gates(), self.uniform_noise(self.log_alpha))
        return GATE.noiseless(self.scores()) if self.faithful else self.kept_at_present().float()

    # The penalty and the controller of its strength

    def penalty(self) -> Tensor | float:
        """`()`: strength x the expected number of open gates."""
        if not self.begun:
            return 0.0
        probabilities = GATE.open_probability(self.gates()).clamp(EPSILON, 1.0 - EPSILON)  # as in the published code
        return self.strength * (probabilities * self.alive).sum()

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        if not self.faithful:
            self.log_alpha.clamp_(-MAX_LOG_ALPHA, MAX_LOG_ALPHA)
        super().advance(progress)
        if not self.faithful and self.begun:
            self._control_strength()

    def _control_strength(self) -> None:
        """One step of the proportional-integral controller."""
        error = (self.open_count() - self.target_count()) / len(self.space)
        self.integrated_strength = _bounded_exp(math.log(self.integrated_strength) + self.rate * error)
        self.strength = _bounded_exp(math.log(self.integrated_strength) + PROPORTIONAL_GAIN * error)

    def open_count(self) -> int:
        """The number of open gates as the published code counts them: log alpha above 0."""
        return int((self.scores() > 0).sum())

    def target_count(self) -> float:
        """The number of gates that should be open at present: N before pruning begins, K at the end."""
        share, last = self.share_schedule(self.progress), self.share_schedule.stop
        remaining = (share - last) / (1.0 - last) if last < 1.0 else 0.0
        return self.count + remaining * (len(self.space) - self.count)

    def param_groups(self) -> list[dict[str, Any]]:
        """The gates, with their own learning rate and without weight decay."""
        return [self.group_of(self.log_alpha)]

    def scores(self) -> Tensor:
        return self.gates().detach()

    @torch.no_grad()
    def log_values(self) -> dict[str, float]:
        """The number of `open` gates (log alpha above 0), the units `kept`, their `density`, and the `strength`."""
        kept = self.kept_at_present()
        return {
            "density": self.space.density(kept),
            "kept": float(kept.sum()),
            "open": float(self.open_count()),
            "strength": self.strength,
        }

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.strength, self.integrated_strength], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state[:-2])
        self.strength, self.integrated_strength = (float(number) for number in state[-2:])


def _bounded_exp(logarithm: float) -> float:
    return math.exp(min(max(logarithm, -MAX_LOG_STRENGTH), MAX_LOG_STRENGTH))
