"""CoFi: structured pruning with coarse and fine masks together (Xia, Zhong and Chen, ACL 2022, arXiv 2204.00408).

Equations, by the paper's sections:
    sec 3.1  masks of five kinds: hidden dims, heads, sublayers (attention, FFN), FFN neurons          `defaults`
    sec 2.3  hard-concrete gates (Louizos et al., ICLR 2018)                                           `gates.py`
    sec 3.1  expected density from the probabilities that gates are open                               `expected`
    sec 3.1  the Lagrangian l1 (s - t) + l2 (s - t)^2; weights and gates descend, l1 and l2 ascend     `lagrangian.py`
    sec 4.1  linear ramp of the target                                                                 `schedule`
    sec 3.2  distillation is not here: `objectives.Hidden(match=...)`, `objectives.Logits(divergence=True)`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. All gates start open. The published FFN gates start at 0, "mostly a typo" (issue 51 of their repository).
    2. The expected density is that of the space: the same function that counts parameters in every report. The
       published formula counts biases in one place and not in another.
    3. In evaluation, and in the plan, the masks are calibrated: all gates are shifted alike until the counted density
       is the one asked for. The published deterministic masks count far more than expected (0.454 for 0.40).
       The plan is calibrated in both.
Differences of the published code that are not reproduced: noise is sampled on the CPU; the optimizer restarts when
pruning begins; the probabilities are clamped to [1e-6, 1 - 1e-6], which has no effect, because the gates are clamped.

Beyond the paper, gates that have settled can be closed for good (`settle`), so that the model shrinks while it is
pruned. Once the target has arrived, at the end of every `settle` steps, those gates are closed that were shut in each
of these steps and that the plan would not keep. Their masks are 0 from then on, also in the expected density, and they
never open again.
A target shape in place of a density (`shape`) is that of Sheared-LLaMA (Xia et al., ICLR 2024, arXiv 2310.06694).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.density_target import DensityTarget
from secateur.methods.gates import EPSILON, HardConcrete
from secateur.methods.lagrangian import Target, penalty
from secateur.methods.method import Amount, Method
from secateur.methods.noise import generator, seed_or_default
from secateur.methods.schedules import Schedule, linear
from secateur.methods.shape_target import ShapeTarget
from secateur.system import compat
from secateur.system.errors import UserError

GATE = HardConcrete(temperature=2 / 3)
BOUNDS = (math.log(0.01), math.log(100.0))  # the gates are clamped to these after every step
SHUT = 0.1  # a gate whose probability of being open is below this may settle; at the lower bound it is 0.047


@register("cofi")
class Cofi(Method):
    """Learns hard-concrete gates over every unit together with the weights, under a Lagrangian of the expected density.

    Args:
        space: usually `Space(model, "hidden", "head", "sublayer", "ffn")`; any units work.
        density: the ramp of the target, `linear(1.0, target, begin=b, end=e)`; before `begin` nothing is masked.
        learning_rate: of gates and multipliers, constant. A gate moves by about this much in a step, so closing one
            takes 6.2 / learning_rate steps (paper: 0.01).
        shape: number of units to keep of each kind, in every layer alike, in place of the density as the target
            (`{"layer": 8, "head": 6, "ffn": 512, "hidden": 320}`); the density is then an upper limit.
        tolerance: how far above its target a density may be where models are compared (paper: 0, or 0.01 at 0.05).
        settle: number of steps for which a gate must have been shut to be closed for good, after the ramp of the
            target; 0 for never.
        faithful: the published start and accounting, and uncalibrated masks in evaluation.
        seed: of the start and the noise of the gates, the same on every rank; by default that of torch (`set_seed`).

    Raises:
        UserError: the density is out of reach, the shape does not fit the space, the space counts a latency, or
            `settle` is below 0 or goes with `faithful`.
    """

    shut: Tensor
    idle: Tensor
    reopened: Tensor

    budgets = ("parameters",)
    monotone = False
    defaults = {
        "target.units": ("hidden", "head", "sublayer", "ffn"),
        "method.begin": 0.02,
        "method.ramp": 0.4,
        "method.end": 0.5,
        "distillation.temperature": 2.0,
        "distillation.divergence": True,
        "distillation.hidden": "quarters",
        "distillation.match": "nearest-ordered",
        "training.freeze_embeddings": "all",
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        learning_rate: float = 0.01,
        shape: Mapping[str, int] | None = None,
        tolerance: float = 0.0,
        settle: int = 0,
        faithful: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density)
        if type(settle) is not int or settle < 0 or (settle and faithful):
            raise UserError(
                f"settle is {settle!r}: expected a whole number of steps, 0 for never; and leave faithful out to settle"
            )
        if faithful:
            space.table.one_stack("the published accounting")
        self.learning_rate, self.tolerance, self.faithful = learning_rate, tolerance, faithful
        self.settle = settle
        self.seed = seed_or_default(seed)
        self.draws, self.reached = 0, False
        self.density_target = DensityTarget(space, self.asked, GATE, published=faithful)
        self.target: Target = self.density_target if shape is None else ShapeTarget(space, self.asked, shape)
        self.log_alpha = nn.Parameter(_start(space, self.seed, faithful))
        multipliers = torch.zeros(2, self.target.constraints, device=self.log_alpha.device)
        self.multipliers = nn.Parameter(multipliers)  # l1 and l2 of each constraint
        self.register_buffer("shut", torch.ones_like(self.alive))  # in every step since the last multiple of `settle`
        self.register_buffer("idle", torch.zeros_like(self.alive))  # shut for `settle` steps at least once
        self.register_buffer("reopened", torch.zeros_like(self.alive))  # open after having been idle
        self._calibrated: tuple[Any, Tensor] | None = None
        if shape is not None:
            self.target.kept(self.scores(), self.alive, self.asked.stop)  # refuses too large a shape before training

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A linear ramp: the gates cannot follow the fast start of the cubic one."""
        return linear(1.0, density, begin=begin, end=end)

    @property
    def shrinks(self) -> bool:
        return self.settle > 0

    # Masks

    @property
    def begun(self) -> bool:
        """Whether anything is masked yet."""
        return self.progress >= self.asked.begin

    def gates(self) -> Tensor:
        """`(N,)` log alpha; minus infinity, without a gradient, where a gate is closed for good."""
        return self.where_alive(self.log_alpha)

    def masks(self) -> Tensor:
        """All ones before pruning begins; then a sample in training, and deterministic masks in evaluation."""
        if not self.begun:
            return torch.ones_like(self.log_alpha)
        if self.training:
            self.draws += 1
            return GATE.sample(self.gates(), _noise(self.space, self.seed, self.draws - 1, self.log_alpha.device))
        return self._evaluated()

    @torch.no_grad()
    def _evaluated(self) -> Tensor:
        """`(N,)` masks of evaluation: the published ones, or those of a plan at the present density of the schedule.

        They are computed once for each state.
        """
        if self.faithful:
            return torch.cat([GATE.deterministic(gates) for _, gates in self.space.by_group(self.gates())])
        state = (self.progress, compat.version_of(self.log_alpha), compat.version_of(self.alive))
        if self._calibrated is None or self._calibrated[0] != state:
            self._calibrated = (state, self.chosen(self.asked(self.progress)))
        return self._calibrated[1]

    def chosen(self, density: float) -> Tensor:
        """`(N,)` masks at a counted density: kept gates have their `open_value`, to be folded into the weights."""
        self.space.asked(density, None)
        scores = self.scores()
        return torch.where(self.target.kept(scores, self.alive, density), GATE.open_value(scores), 0.0)

    # The Lagrangian

    def expected(self) -> Tensor:
        """`()` expected density."""
        return self.density_target.expected(GATE.open_probability(self.gates()))

    def gaps(self) -> list[Tensor]:
        """Expected sparsity minus its target, for each constraint (see `Target.gaps`)."""
        return self.target.gaps(GATE.open_probability(self.gates()), self.progress)

    def penalty(self) -> Tensor | float:
        """`()`: `l1 (s - t) + l2 (s - t)^2`, summed over the constraints and averaged over layers."""
        return penalty(self.gaps(), self.multipliers).to(self.log_alpha.dtype) if self.begun else 0.0

    def param_groups(self) -> list[dict[str, Any]]:
        """Gates, and multipliers that ascend; both with a constant learning rate and no decay."""
        own = {"lr": self.learning_rate, "weight_decay": 0.0, "constant": True}
        return [{"params": [self.log_alpha], **own}, {"params": [self.multipliers], **own, "maximize": True}]

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        super().advance(progress)
        self.log_alpha.clamp_(*BOUNDS).masked_fill_(~self.alive, BOUNDS[0])
        arrived = self.begun and self.asked(progress) == self.asked.stop
        if arrived and not self.reached:
            self.reached = all(bool((gap >= -self.tolerance - 1e-9).all()) for gap in self.gaps())
        if self.settle:
            self._settle(arrived)

    def _settle(self, arrived: bool) -> None:
        """Close for good the gates that have settled, if the target is at the end of its ramp.

        None of the present plan is among them, so that the last density stays in reach.
        """
        chances = GATE.open_probability(self.log_alpha)
        self.shut &= chances < SHUT
        self.reopened |= self.idle & (chances >= 0.5)
        if self.steps % self.settle:
            return
        self.idle |= self.shut
        if arrived and bool((self.shut & self.alive).any()):
            self.alive &= ~self.shut | (self._evaluated() > 0)
        self.shut.fill_(True)

    # What others ask

    def scores(self) -> Tensor:
        return self.gates().detach()

    def settled(self) -> bool:
        """Whether the expected density has been at the last target, and the counted one is, up to the tolerance."""
        return self.reached and self._counted() <= self.asked.stop + self.tolerance + 1e-9

    def _counted(self) -> float:
        return self.space.density(self._evaluated() > 0) if self.begun else 1.0

    @torch.no_grad()
    def readings(self) -> dict[str, float]:
        """Densities: `density` counted in the masks of evaluation, `density_expected`, and the `density_target`.

        If gates settle, also `density_alive`, that of the gates that are not closed for good, and `reopened`: how many
        gates have opened again that were shut for `settle` steps, while the ramp had not ended or the plan kept them.
        What the closed ones would have done is unknown, because nothing is computed of them.
        """
        target = self.asked(self.progress) if self.begun else 1.0
        expected = float(self.expected()) if self.begun else 1.0
        values = {"density": self._counted(), "density_expected": expected, "density_target": target}
        if self.settle:
            values |= {"density_alive": self.space.density(self.alive), "reopened": float(self.reopened.sum())}
        return values

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.draws, self.reached, self.seed], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.reached, self.seed = int(state[-3]), bool(state[-2]), int(state[-1])


def _start(space: Space, seed: int, faithful: bool) -> Tensor:
    """`(N,)` log alpha near 10, or of FFN neurons near 0, as published."""
    start = 10.0 + 0.01 * torch.randn(len(space), generator=torch.Generator().manual_seed(seed))
    if faithful:
        for group, gates in space.by_group(start):
            gates -= 10.0 * (group.kind == "ffn")
    return start.to(space.model.device)


def _noise(space: Space, seed: int, draw: int, device: torch.device) -> Tensor:
    """`(N,)` in (0, 1), sampled on the device; the seed and the number of earlier draws decide it on every rank."""
    noise = torch.rand(len(space), generator=generator(device, seed, draw), device=device)
    return noise * (1.0 - 2 * EPSILON) + EPSILON
