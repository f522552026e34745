"""CoFi: joint pruning of coarse and fine units (Xia, Zhong and Chen, ACL 2022, arXiv 2204.00408).

Equations, by the paper's sections:
    sec 3.1  masks of five kinds: hidden dims, heads, sublayers (attention, FFN), FFN neurons          `defaults`
    sec 2.3  hard-concrete gates (Louizos et al., ICLR 2018)                                           `gates.py`
    sec 3.1  expected density from the probabilities that gates are open                               `expected`
    sec 3.1  the Lagrangian l1 (s - t) + l2 (s - t)^2; weights and gates descend, l1 and l2 ascend     `lagrangian.py`
             by default in its place a projection onto the density of the schedule                     `projection.py`
    sec 4.1  linear ramp of the target                                                                 `schedule`
    sec 3.2  distillation is not part of the method: `Hidden(match=...)` and `Logits(divergence=True)` of `objectives`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. All gates start open. In the published code log alpha of FFN gates starts at 0, which the authors call "mostly
       a typo" (issue 51 of their repository).
    2. The expected density is that of the space, the function that also counts parameters in every report. The
       published formula counts biases in the attention and not in the feed-forward networks.
    3. Masks of evaluation are calibrated: log alpha of all gates is shifted by one number until the counted density is
       the target. The published deterministic masks count far more than expected (0.454 for a target of 0.40). The
       plan is calibrated with and without `faithful`.
    4. Evaluations are compared where the counted density is the target too; the published latch asks for the expected
       one alone.
Properties of the published code that are not reproduced: noise is sampled on the CPU; the optimizer restarts when
pruning begins; probabilities are clamped to [1e-6, 1 - 1e-6], which has no effect because log alpha is clamped.

Beyond the paper:
    - `constraint="exact"`, the default: after every optimizer step all gates are shifted by one number until the
      expected density is that of the schedule, and there are neither multipliers nor a penalty. Multipliers have to
      grow before they close a gate, so that with them the expected density follows the ramp late.
    - `evidence`: gates have a prior, by what units are worth and what they cost (`prior.py`), and are then not clamped.
    - `settle` removes gates permanently that have settled, so that the model shrinks while it is pruned. Once the ramp
      of the target has ended, every `settle` steps, those gates are removed that were closed in all of these steps and
      that the plan would not keep. Their masks are 0 from then on, also in the expected density.
    - `shape` sets a target shape in place of a density, as in Sheared-LLaMA (Xia et al., ICLR 2024, arXiv 2310.06694).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.cofi_options import is_exact, learning_rate_of_gates, weight_of_evidence
from secateur.methods.density_target import DensityTarget
from secateur.methods.gate_log import GateLog
from secateur.methods.gates import EPSILON, HardConcrete
from secateur.methods.lagrangian import Target, penalty, refuse_other_constraint
from secateur.methods.method import Amount
from secateur.methods.noise import generator, seed_or_default
from secateur.methods.options import number, truth
from secateur.methods.prior import EvidencePrior, Informed
from secateur.methods.projection import projected
from secateur.methods.schedules import Schedule, linear
from secateur.methods.settling import Settling
from secateur.methods.shape_target import ShapeTarget
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.system.model_state import device_of

GATE = HardConcrete(temperature=2 / 3)
CERTAIN = (-20.0, 20.0)  # log alpha of gates that are closed, and open, but for a probability of 1e-8
BOUNDS = (math.log(0.01), math.log(100.0))  # log alpha is clamped to these after every step


@register("cofi")
class Cofi(Informed):
    """Learns hard-concrete gates over every unit together with the weights, at an expected density that is given.

    Args:
        space: usually `Space(model, "hidden", "head", "sublayer", "ffn")`; any units work.
        density: the ramp of the target, `linear(1.0, target, begin=b, end=e)`; before `begin` nothing is masked.
        learning_rate: of gates and multipliers, constant. It is about the change of log alpha in one step by the loss,
            so that closing a gate takes 6.2 / learning_rate steps. By default 0.1 with an exact constraint and 0.01, as
            in the paper, with a Lagrangian.
        shape: number of units to keep of each kind, the same in every layer, as the target in place of the density
            (`{"layer": 8, "head": 6, "ffn": 512, "hidden": 320}`). It is reached from `begin` to `end` of the schedule,
            whose density is then an upper limit: `linear(1.0, 1.0, begin=b, end=e)` for none.
        tolerance: by how much the density may exceed its target where evaluations are compared (paper: 0, or 0.01 at
            a density of 0.05).
        settle: number of steps for which a gate must have been closed to be removed permanently, after the ramp of
            the target; 0 for never.
        faithful: the published start and parameter count, the Lagrangian without evidence, and uncalibrated masks in
            evaluation.
        evidence: the weight of the evidence in log alpha (`prior.py`), where the constraint is exact; 0 for none. By
            default 2. There is none either where no step comes before pruning begins.
        constraint: how the expected density follows the schedule. "exact" shifts all gates after every step until it is
            that of the schedule, within 1e-6 and never above it, or without evidence as near as gates come that stay
            between log 0.01 and log 100; "lagrangian" adds a penalty whose multipliers the optimizer maximises over, as
            the paper does.
            By default "exact", but "lagrangian" with `faithful` or a `shape`, which need it.
        seed: of the start and the noise of the gates, the same on every rank; by default that of torch (`set_seed`).

    Attributes:
        draws: the number of samples taken in training.
        multipliers: `(2, constraints)`, l1 and l2 of the Lagrangian; None where the constraint is exact.
        reached: whether the expected density has met the last target at least once, or is held as near to it as it can.
        settling: which gates have settled; its period is `settle` steps.
        prior: the part of log alpha that is evidence; None for none. Once it is known, log alpha is not clamped, so
            that gates whose units are clearly worth their cost, or clearly not, are open or closed with certainty.

    Raises:
        UserError: the density is out of reach, the shape does not fit the space, the space counts a latency,
            a number is not in its range, `settle` is combined with `faithful`, `constraint` is unknown or
            "exact" with `faithful` or a `shape`, or `evidence` has no exact constraint; from
            `load_state_dict`, the state is that of the other constraint, or has evidence and this method has none, or
            the reverse.
    """

    renamed_state = {name: f"settling.{name}" for name in ("shut", "idle", "reopened")}
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
        learning_rate: float | None = None,
        shape: Mapping[str, int] | None = None,
        tolerance: float = 0.0,
        settle: int = 0,
        faithful: bool = False,
        evidence: float | None = None,
        constraint: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density)
        self.faithful = truth("faithful", faithful)
        exact = is_exact(constraint, lagrangian_only=faithful or shape is not None)
        if type(settle) is not int or settle < 0 or (settle and faithful):
            raise UserError(
                f"settle is {settle!r}: expected a whole number of steps, 0 for never; and leave faithful out to settle"
            )
        if faithful:
            space.table.one_stack("the published accounting")
        self.learning_rate = learning_rate_of_gates(learning_rate, exact=exact)
        self.tolerance, self.settle = number("tolerance", tolerance, least=0.0), settle
        weight = weight_of_evidence(evidence, exact=exact)
        self.prior = EvidencePrior(space, weight) if weight else None
        self.seed = seed_or_default(seed)
        self.draws, self.reached = 0, False
        self.density_target = DensityTarget(space, self.share_schedule, GATE, published=faithful)
        self.target: Target = self.density_target if shape is None else ShapeTarget(space, self.share_schedule, shape)
        self.log_alpha = nn.Parameter(_start(space, self.seed, faithful))
        multipliers = torch.zeros(2, self.target.constraints, device=self.log_alpha.device)
        self.multipliers = None if exact else nn.Parameter(multipliers)
        self.register_load_state_dict_pre_hook(refuse_other_constraint)
        self.settling, self.gate_log = Settling(self.alive), GateLog(space)
        self._calibrated: tuple[Any, Tensor] | None = None
        if shape is not None:
            last = self.share_schedule.stop
            self.target.kept(self.scores(), self.alive, last, 1.0)  # refuses a shape that is too large before training

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A linear ramp, because gates cannot follow the fast start of a cubic one."""
        return linear(1.0, density, begin=begin, end=end)

    @property
    def shrinks(self) -> bool:
        return self.settle > 0

    # Masks

    def gates(self) -> Tensor:
        """`(N,)` log alpha; minus infinity, without a gradient, where a unit is not alive."""
        return self.where_alive(self.log_alpha)

    def masks(self) -> Tensor:
        """All ones before pruning begins; then a sample in training and deterministic masks in evaluation."""
        if self.training and self.begun:
            self.draws += 1
            return GATE.sample(self.gates(), _noise(self.space, self.seed, self.draws - 1, self.log_alpha.device))
        return self._evaluation_masks()

    @torch.no_grad()
    def _evaluation_masks(self) -> Tensor:
        """`(N,)` masks of evaluation: those of a plan at the present density, or where `faithful` the published ones.

        They are ones before pruning begins, and computed once for each state of the method.
        """
        if not self.begun:
            return torch.ones_like(self.log_alpha)
        if self.faithful:
            return torch.cat([GATE.deterministic(gates) for _, gates in self.space.by_group(self.gates())])
        state = (self.progress, compat.version_of(self.log_alpha), compat.version_of(self.alive))
        if self._calibrated is None or self._calibrated[0] != state:
            self._calibrated = (state, self.chosen(self.share_schedule(self.progress), self.progress))
        return self._calibrated[1]

    def chosen(self, density: float, progress: float = 1.0) -> Tensor:
        """`(N,)` masks at a counted density; kept units have their gate's `open_value`, to fold into the weights.

        With a `shape` they have that of a progress in [0, 1].
        """
        self.space.requested_share(density, None)
        scores = self.scores()
        kept = self.target.kept(scores.cpu(), self.alive.cpu(), density, progress)  # many operations on few numbers
        return torch.where(kept.to(scores.device), GATE.open_value(scores), 0.0)

    # The constraint

    def expected(self) -> Tensor:
        """`()` expected density."""
        return self.density_target.expected(GATE.open_probability(self.gates()))

    def gaps(self) -> list[Tensor]:
        """Expected sparsity minus its target, for every constraint (see `Target.gaps`)."""
        return self.target.gaps(GATE.open_probability(self.gates()), self.progress)

    def penalty(self) -> Tensor | float:
        """`()`: `l1 (s - t) + l2 (s - t)^2`, summed over the constraints and averaged over layers; 0 if it is exact."""
        if self.multipliers is None or not self.begun:
            return 0.0
        return penalty(self.gaps(), self.multipliers).to(self.log_alpha.dtype)

    def param_groups(self) -> list[dict[str, Any]]:
        """Gates, and multipliers that ascend; both with a constant learning rate and no weight decay."""
        own = {"lr": self.learning_rate, "weight_decay": 0.0, "constant": True}
        gates = [{"params": [self.log_alpha], **own}]
        return gates if self.multipliers is None else [*gates, {"params": [self.multipliers], **own, "maximize": True}]

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        super().advance(progress)
        self.gate_log.observe(self.log_alpha.grad, self.alive)
        self._hold()
        ramp_ended = self.begun and self.target.ramp_ended(progress)
        if ramp_ended and not self.reached:
            met = (bool((gap >= -self.tolerance - 1e-9).all()) for gap in self.gaps())
            self.reached = self.multipliers is None or all(met)
        if self.settle:
            self._settle(ramp_ended)

    def _hold(self) -> None:
        """Clamp the gates, and shift them to the density of the schedule if the constraint is exact."""
        bounds = CERTAIN if self.informed else BOUNDS
        _clamp(self.log_alpha, self.alive, bounds)
        if self.multipliers is not None or not self.begun:
            return
        if self.prior is not None:
            self.log_alpha.add_(self.prior.change(GATE.open_probability(self.gates())))
        density, first = self.share_schedule(self.progress), self.learning_rate
        held = projected(self.density_target.density_of, self.log_alpha, self.alive, density, bounds, first)
        _clamp(self.log_alpha.copy_(held), self.alive, bounds)

    def _settle(self, ramp_ended: bool) -> None:
        """Remove the gates permanently that have settled, if the ramp of the target has ended.

        Gates of the present plan are never removed, so that the last density stays in reach.
        """
        self.settling.observe(GATE.open_probability(self.gates()))
        if self.steps % self.settle:
            return
        settled = self.settling.end_period()
        if ramp_ended and bool((settled & self.alive).any()):
            self.alive &= ~settled | (self._evaluation_masks() > 0)
            self._hold()

    # Scores and the log

    def scores(self) -> Tensor:
        return self.gates().detach()

    def reached_target(self) -> bool:
        """Whether the expected density has met the last target once, and unless `faithful` the counted one does now."""
        most = self.share_schedule.stop + self.tolerance + 1e-9
        return self.reached and (self.faithful or self.space.density(self._evaluation_masks() > 0) <= most)

    @torch.no_grad()
    def log_values(self) -> dict[str, float]:
        """Densities: the counted `density` of the masks of evaluation, `density_expected` and `density_target`.

        Once pruning has begun, also `open_KIND` and `gradient_KIND` for each kind of unit: the mean probability that a
        gate is open, and the mean absolute gradient of log alpha since the last log; with a Lagrangian also
        `penalty_KIND`, the mean absolute gradient of its penalty alone.

        With `settle`, also `density_alive`, that of the gates that are not removed permanently, and `reopened`, the
        number of gates that have opened after having been closed for `settle` steps. Those are gates that were not
        removed, because the ramp had not ended or the plan kept them: removed gates get no gradient.
        """
        target = self.share_schedule(self.progress) if self.begun else 1.0
        expected = float(self.expected()) if self.begun else 1.0
        values = {
            "density": self.space.density(self._evaluation_masks() > 0),
            "density_expected": expected,
            "density_target": target,
        }
        if self.begun:
            values |= self.gate_log.take(GATE.open_probability(self.gates()), self.alive)
        if self.begun and self.multipliers is not None:
            with torch.enable_grad():
                values |= self.gate_log.of_penalty(torch.as_tensor(self.penalty()), self.log_alpha, self.alive)
        if self.settle:
            values |= {"density_alive": self.space.density(self.alive), "reopened": float(self.settling.reopened.sum())}
        return values

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.draws, self.reached, self.seed], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.reached, self.seed = int(state[-3]), bool(state[-2]), int(state[-1])


def _clamp(log_alpha: Tensor, alive: Tensor, bounds: tuple[float, float]) -> None:
    """Keep gates within the bounds of the paper; where evidence tells them apart, bounds are for what is read alone."""
    if bounds == BOUNDS:
        log_alpha.clamp_(*BOUNDS).masked_fill_(~alive, BOUNDS[0])


def _start(space: Space, seed: int, faithful: bool) -> Tensor:
    """`(N,)` log alpha near 10; where `faithful`, near 0 for FFN neurons."""
    start = 10.0 + 0.01 * torch.randn(len(space), generator=torch.Generator().manual_seed(seed))
    if faithful:
        for group, gates in space.by_group(start):
            gates -= 10.0 * (group.kind == "ffn")
    return start.to(device_of(space.model))


def _noise(space: Space, seed: int, draw: int, device: torch.device) -> Tensor:
    """`(N,)` in (0, 1), sampled on the device; it depends on the seed and the number of earlier draws alone."""
    noise = torch.rand(len(space), generator=generator(device, seed, draw), device=device)
    return noise * (1.0 - 2 * EPSILON) + EPSILON
