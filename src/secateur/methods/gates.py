"""The hard-concrete distribution of gates (Louizos, Welling and Kingma, ICLR 2018, arXiv 1712.01312).

A gate z in [0, 1] is 0 with a positive probability, 1 with a positive probability, and differentiable in its only
parameter, log alpha. Equations, by the paper's numbers:

    eq. 10, 11  s = sigmoid((log u - log(1 - u) + log alpha) / beta), u uniform in (0, 1)
                z = clip(s (zeta - gamma) + gamma, 0, 1)                                  `sample`
    eq. 12      P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta)),
                whose sum is the expected L0 norm                                         `open_probability`
    eq. 13      at test time clip(sigmoid(log alpha) (zeta - gamma) + gamma, 0, 1)        `noiseless`

CoFi evaluates its gates by another rule, that of FLOP (Wang, Wohlwend and Lei, EMNLP 2020): `open_value` and
`deterministic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6  # uniform noise stays this far from 0 and 1, so that its logit is finite
OPEN_VALUE_SCALE = 0.8  # of log alpha, for the value of an open gate in FLOP's rule


@dataclass(frozen=True)
class HardConcrete:
    """The distribution at one temperature; its methods take log alpha of any shape.

    Attributes:
        temperature: beta of the paper (2/3 there).
        low: gamma, the lower end of the stretched interval; below 0, so that clipping yields exact zeros.
        high: zeta, its upper end; above 1, so that clipping yields exact ones.
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    def sample(self, log_alpha: Tensor, uniform: Tensor) -> Tensor:
        """Gates in [0, 1]; `uniform` is noise in [0, 1], broadcast against `log_alpha`."""
        noise = torch.logit(uniform.clamp(EPSILON, 1.0 - EPSILON))
        return self._stretched(torch.sigmoid((noise + log_alpha) / self.temperature))

    def closed_probability(self, log_alpha: Tensor, value: float = 0.0) -> Tensor:
        """The cumulative distribution: P(z <= value) for a value in [0, 1), and P(z < 1) for 1."""
        inner = (value - self.low) / (self.high - self.low)
        return torch.sigmoid(self.temperature * math.log(inner / (1.0 - inner)) - log_alpha)

    def open_probability(self, log_alpha: Tensor) -> Tensor:
        """P(z > 0)."""
        return torch.sigmoid(log_alpha - self.temperature * math.log(-self.low / self.high))

    def noiseless(self, log_alpha: Tensor) -> Tensor:
        """Gates in [0, 1] without noise; they do not depend on the temperature."""
        return self._stretched(torch.sigmoid(log_alpha))

    def _stretched(self, value: Tensor) -> Tensor:
        return (value * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def open_value(self, log_alpha: Tensor) -> Tensor:
        """The value of an open gate in (0, 1) by FLOP's rule: `sigmoid(0.8 log alpha / beta)`."""
        return torch.sigmoid(OPEN_VALUE_SCALE * log_alpha / self.temperature)

    def deterministic(self, log_alpha: Tensor) -> Tensor:
        """`(n,)` gates without noise by FLOP's rule: the `round(n - sum P(z > 0))` lowest are 0, the rest open."""
        zeros = torch.round(log_alpha.numel() - self.open_probability(log_alpha).sum())
        rank = log_alpha.argsort(stable=True).argsort()
        return self.open_value(log_alpha) * (rank >= zeros)
