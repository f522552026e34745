"""CoFi: structured pruning with coarse and fine masks together (Xia, Zhong and Chen, ACL 2022, arXiv 2204.00408).

Equations, by the paper's sections:
    sec 3.1  masks of five families: hidden dims, heads, sublayers (attention, FFN), FFN neurons       `units`
    sec 2.3  hard-concrete masks (Louizos et al., ICLR 2018)                                           `masks`
    sec 3.1  expected density from the probabilities that masks are open                               `expected`
    sec 3.1  the Lagrangian l1 (s - t) + l2 (s - t)^2; weights and gates descend, l1 and l2 ascend     `penalty`
    sec 4.1  linear ramp of the target                                                                 `schedule`
    sec 3.2  distillation is not here: `objectives.Hidden(match=...)`, `objectives.Logits(divergence=True)`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. All gates start open. The published FFN gates start at 0, "mostly a typo" (issue 51 of their repository).
    2. The expected density is that of the space: the same function that counts parameters in every report. The
       published formula counts biases in one place and not in another.
    3. In evaluation, and in the plan, the masks are calibrated: all gates are shifted alike until the counted density
       is the one asked for. The published deterministic masks count far more than expected (0.454 for 0.40).
       The plan is calibrated in both.
Differences of the published code that are not reproduced: the noise is drawn on the CPU; the optimizer restarts when
pruning begins; the probabilities are clamped to [1e-6, 1 - 1e-6], which the clamp of the gates makes void.

Beyond the paper, gates that have settled can be closed for good (`settle`), so that the model shrinks while it is
pruned: at the end of every so many steps, once the target has arrived, the gates that were shut in each of them and
that the plan would not keep. Their masks are 0 from then on, in expectation too, and none comes back.
A target shape in place of a density (`shape`) is that of Sheared-LLaMA (Xia et al., ICLR 2024, arXiv 2310.06694).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.methods import register
from secateur.methods.method import Method
from secateur.methods.schedules import Schedule, constant, linear
from secateur.structure.space import Group, Space
from secateur.system.errors import UserError

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3  # l, r and T of the hard-concrete distribution
EPSILON = 1e-6  # the uniform noise stays this far from 0 and 1
BOUNDS = (math.log(0.01), math.log(100.0))  # the gates are clamped to these after every step
WIDEST = 30.0  # a shift that opens, or closes, any gate
SHUT = 0.1  # a gate whose probability of being open is below this may settle; at the clamp it is 0.047
SHARPNESS = 0.8  # of a kept gate's value: sigmoid(0.8 a / T), borrowed from FLOP (Wang et al., EMNLP 2020)


def closed_probability(log_alpha: Tensor, value: float = 0.0) -> Tensor:
    """P(z <= value) for a value below 1, and P(z < 1) for 1: `sigmoid(T logit((v - l) / (r - l)) - a)`."""
    inner = (value - LOW) / (HIGH - LOW)
    return torch.sigmoid(TEMPERATURE * math.log(inner / (1.0 - inner)) - log_alpha)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of hard-concrete gates: what expected counts are made of."""
    return 1.0 - closed_probability(log_alpha)


def hard_concrete(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Samples in [0, 1] for noise in (0, 1): `clip(sigmoid((log u - log(1-u) + a) / T) (r - l) + l, 0, 1)`."""
    stretched = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0.0, 1.0)


def open_value(log_alpha: Tensor) -> Tensor:
    """What a gate that is kept multiplies by in evaluation: soft, at most 0.996 at the clamp."""
    return torch.sigmoid(SHARPNESS * log_alpha / TEMPERATURE)


def deterministic(log_alpha: Tensor) -> Tensor:
    """One gate vector `(n,)` without noise: its `round(n - sum P(z > 0))` smallest are 0, the others `open_value`."""
    zeros = torch.round(log_alpha.numel() - open_probability(log_alpha).sum())
    rank = log_alpha.argsort(stable=True).argsort()
    return open_value(log_alpha) * (rank >= zeros)


@register("cofi")
class Cofi(Method):
    """Learns hard-concrete gates over every unit together with the weights, under a Lagrangian of the expected density.

    Args:
        space: usually `Space(model, "hidden", "head", "sublayer", "ffn")`; any units work.
        density: the ramp of the target, `linear(1.0, target, begin=b, end=e)`; before `begin` nothing is masked.
        learning_rate: of gates and multipliers, constant. A gate moves by about this much a step, so closing one takes
            6.2 / learning_rate steps (paper: 0.01).
        shape: units to keep of each kind, in every layer alike, as a target of its own in place of the
            density's (`{"layer": 8, "head": 6, "ffn": 512, "hidden": 320}`); the density asked for is then a limit.
        tolerance: how far above its target a density may be where scores are compared (paper: 0, or 0.01 at 0.05).
        settle: steps for which a gate must have been shut to be closed for good, after the target's ramp; 0: never.
        faithful: the published start and accounting, and uncalibrated masks in evaluation.
        seed: of the gates' start and noise, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: the density is out of reach, the shape does not fit the space, the space counts a latency, or
            `settle` is below 0 or goes with `faithful`.
    """

    shut: Tensor
    idle: Tensor
    reopened: Tensor

    monotone = False
    defaults = {
        "units": ("hidden", "head", "sublayer", "ffn"),
        "begin": 0.02,
        "ramp": 0.4,
        "end": 0.5,
        "temperature": 2.0,
        "divergence": True,
        "hidden": "quarters",
        "match": "nearest-ordered",
        "freeze_embeddings": "all",
    }

    def __init__(
        self,
        space: Space,
        density: Schedule | float = 1.0,
        *,
        learning_rate: float = 0.01,
        shape: Mapping[str, int] | None = None,
        tolerance: float = 0.0,
        settle: int = 0,
        faithful: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(space)
        if space.cost is not None:
            raise UserError(
                "the Lagrangian of gates is of the expected density: ask for a density here, or for a latency with a "
                "method that removes units along a schedule"
            )
        if type(settle) is not int or settle < 0 or (settle and faithful):
            raise UserError(
                f"settle is {settle!r}: expected a whole number of steps, 0 for never; and leave faithful out to settle"
            )
        if faithful:
            space.table.one_stack("the published accounting")
        self.density = constant(density) if isinstance(density, int | float) else density
        self.learning_rate, self.tolerance, self.faithful = learning_rate, tolerance, faithful
        self.settle = settle
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.draws, self.reached = 0, False
        self.shape = _checked(shape, space) if shape is not None else None
        space.check(self.density.stop)
        self.log_alpha = nn.Parameter(self._start())  # α of eq. 2, a of the specification
        targets = len(self.shape) if self.shape is not None else 1
        self.multipliers = nn.Parameter(torch.zeros(2, targets, device=self.log_alpha.device))  # λ1 and λ2
        self.register_buffer("shut", torch.ones_like(self.alive))  # in every step since the last `settle`th
        self.register_buffer("idle", torch.zeros_like(self.alive))  # in all steps of some `settle`, on the ramp too
        self.register_buffer("reopened", torch.zeros_like(self.alive))  # after that: the rule would have been wrong
        self._calibrated: tuple[Any, Tensor] | None = None
        if self.shape is not None:
            self._of_shape(self.density.stop)  # refuses a shape that is too large before anything is trained

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A line: the gates cannot follow the cubic's fast start."""
        return linear(1.0, density, begin=begin, end=end)

    def _start(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        start = 10.0 + 0.01 * torch.randn(len(self.space), generator=generator)
        if self.faithful:
            for group in self.space.groups:
                start[self.space.slices[group.name]] -= 10.0 * (group.kind == "ffn")
        return start.to(self.space.model.device)

    @property
    def shrinks(self) -> bool:
        return self.settle > 0

    # Masks

    @property
    def begun(self) -> bool:
        """Whether anything is masked yet."""
        return self.progress >= self.density.begin

    def gates(self) -> Tensor:
        """`(N,)` log alpha; minus infinity, without a gradient, where a gate is closed for good."""
        return self.log_alpha.masked_fill(~self.alive, -torch.inf)

    def masks(self) -> Tensor:
        """All ones before pruning begins; then a sample when training, else the deterministic masks."""
        if not self.begun:
            return torch.ones_like(self.log_alpha)
        if self.training:
            return hard_concrete(self.gates(), self._noise())
        with torch.no_grad():
            return self.published_masks() if self.faithful else self._evaluated()

    def _noise(self) -> Tensor:
        """`(N,)` in (0, 1), drawn on the device; seed and count of draws alone decide it, on every rank alike."""
        device = self.log_alpha.device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + self.draws)
        self.draws += 1
        return torch.rand(len(self.space), generator=generator, device=device) * (1.0 - 2 * EPSILON) + EPSILON

    def published_masks(self) -> Tensor:
        """`(N,)`: `deterministic` for every gate vector (hidden dims, a layer's heads or neurons, a sublayer)."""
        return torch.cat([deterministic(gates) for _, gates in self._vectors(self.gates())])

    def _vectors(self, values: Tensor) -> Iterator[tuple[Group, Tensor]]:
        for group in self.space.groups:
            yield group, values[self.space.slices[group.name]]

    def _evaluated(self) -> Tensor:
        """The masks that a plan at the schedule's present density would have; worked out once for each state."""
        state = (self.progress, self.log_alpha._version, self.alive._version)
        if self._calibrated is None or self._calibrated[0] != state:
            self._calibrated = (state, self.chosen(self.density(self.progress)))
        return self._calibrated[1]

    def chosen(self, density: float) -> Tensor:
        """`(N,)` masks at a counted density, within one smallest unit: kept gates have their `open_value`.

        Sublayers and layers stay as they were learned, as far as the density can be reached so. The gates of all other
        units are shifted by one number, the largest at which the deterministic masks fit; what room rounding and large
        units leave is filled with the best of the others, unless sizes are to be multiples (`Space.round_to`).
        """
        self.space.check(density)
        kept = self._of_shape(density) if self.shape is not None else self._shifted(density)
        return torch.where(kept, open_value(self.scores()), 0.0)

    def _shifted(self, density: float) -> Tensor:
        coarse = self._coarse(density)
        low, high = -WIDEST, WIDEST
        for _ in range(30):
            middle = (low + high) / 2
            fits = self.space.density(self._kept(coarse, middle)) <= density + 1e-12
            low, high = (middle, high) if fits else (low, middle)
        kept = self._kept(coarse, low)
        return kept if self.space.round_to > 1 else self.space.fill(kept, self.scores(), density)

    def _coarse(self, density: float) -> Tensor:
        """Numbers of the units that are a group of their own and stay open: as learned, or what the density needs."""
        numbers = torch.arange(len(self.space), device=self.log_alpha.device)
        alone = torch.cat([numbers[:0], *(row for _, row in self._vectors(numbers) if len(row) == 1)])
        alone = alone[self.alive[alone]]
        gates = self.scores()[alone]
        best, count = alone[gates.argsort(descending=True, stable=True)], int((open_probability(gates) >= 0.5).sum())
        while count < len(best) and self.space.density(self._kept(best[:count], WIDEST)) < density:
            count += 1
        while count > 0 and self.space.density(self._kept(best[:count], -WIDEST)) > density:
            count -= 1
        return best[:count]

    def _kept(self, coarse: Tensor, shift: float) -> Tensor:
        """`(N,)` bool, closed: these units of their own, and what is kept of the others with shifted gates.

        At least the best hidden dim.
        """
        shifted = self.scores() + shift
        kept = torch.cat([(deterministic(gates) > 0) & (len(gates) > 1) for _, gates in self._vectors(shifted)])
        kept[coarse] = True
        if "hidden" in self.space.slices:
            rows = self.space.slices["hidden"]
            kept[rows.start + int(shifted[rows].argmax())] = True
        return self.space.closure(self.space.rounded(kept, shifted))

    def _of_shape(self, density: float) -> Tensor:
        kept = torch.ones_like(self.log_alpha, dtype=torch.bool)
        for units, numbers in self._families():
            best = self.scores()[numbers].argsort(dim=-1, descending=True, stable=True)
            kept[numbers.gather(-1, best[:, units:])] = False
        if (achieved := self.space.density(kept)) > density + 1e-12:
            raise UserError(f"the shape keeps a density of {achieved:.4f}: ask for this much or more, not {density:g}")
        return kept

    def _families(self) -> Iterator[tuple[int, Tensor]]:
        """For each kind of the shape: units to keep, and unit numbers `(rows, n)`, a row to keep them from."""
        numbers = torch.arange(len(self.space), device=self.log_alpha.device)
        for name, units in (self.shape or {}).items():
            rows = [row for group, row in self._vectors(numbers) if group.kind == name]
            yield units, torch.stack(rows) if len(rows[0]) > 1 else torch.cat(rows).unsqueeze(0)

    # The Lagrangian

    def expected(self) -> Tensor:
        """`()` expected density: parameters are multilinear, so their expectation is their count at `P(z > 0)`."""
        probabilities = open_probability(self.gates())
        if self.faithful:
            return 1.0 - published_sparsity(self.space, probabilities)
        return self.space.parameters(probabilities) / self.space.total()

    def gap(self) -> Tensor:
        """`(targets, rows)`: sparsity minus target, below 0 while too much is open; one target without a shape."""
        target, way = self.density(self.progress), self.density.start - self.density.stop
        if self.shape is None:
            return (target - self.expected()).view(1, 1)
        moved = (self.density.start - target) / way if way else 1.0
        gaps = [
            moved * (units / numbers.shape[-1] - 1.0) + 1.0 - open_probability(self.gates())[numbers].mean(-1)
            for units, numbers in self._families()
        ]
        return nn.utils.rnn.pad_sequence(gaps, batch_first=True)

    def penalty(self) -> Tensor | float:
        """`l1 (s - t) + l2 (s - t)^2`, with a shape summed over its targets and averaged over layers."""
        if not self.begun:
            return 0.0
        gap, (first, second) = self.gap(), self.multipliers.unsqueeze(-1)
        rows = gap.new_tensor([len(n) for _, n in self._families()] or [1.0])
        return ((first * gap + second * gap.square()).sum(-1) / rows).sum().to(self.log_alpha.dtype)

    def param_groups(self) -> list[dict[str, Any]]:
        """Gates, and multipliers that ascend; both with a constant learning rate and no decay."""
        own = {"lr": self.learning_rate, "weight_decay": 0.0, "constant": True}
        return [{"params": [self.log_alpha], **own}, {"params": [self.multipliers], **own, "maximize": True}]

    def advance(self, progress: float) -> None:
        super().advance(progress)
        with torch.no_grad():
            self.log_alpha.clamp_(*BOUNDS).masked_fill_(~self.alive, BOUNDS[0])
            if not self.reached and self.density(progress) == self.density.stop and self.begun:
                self.reached = bool((self.gap() >= -self.tolerance - 1e-9).all())
            if self.settle:
                self._settle()

    def _settle(self) -> None:
        """Close for good what was shut in each of the last `settle` steps, if the target has arrived.

        Nothing of the present plan is among it, so that the last density stays in reach.
        """
        chances = open_probability(self.log_alpha)
        self.shut &= chances < SHUT
        self.reopened |= self.idle & (chances >= 0.5)
        if self.steps % self.settle:
            return
        self.idle |= self.shut
        if self.begun and self.density(self.progress) == self.density.stop and bool((self.shut & self.alive).any()):
            self.alive &= ~self.shut | (self._evaluated() > 0)
        self.shut.fill_(True)

    # What others ask

    def scores(self) -> Tensor:
        return self.gates().detach()

    def settled(self) -> bool:
        """The expected density has been at the end of its ramp, and the counted density is, up to the tolerance."""
        return self.reached and self._counted() <= self.density.stop + self.tolerance + 1e-9

    @torch.no_grad()
    def _counted(self) -> float:
        if not self.begun:
            return 1.0
        return self.space.density((self.published_masks() if self.faithful else self._evaluated()) > 0)

    @torch.no_grad()
    def readings(self) -> dict[str, float]:
        """Densities: `density` counted in the masks of evaluation, `density_expected`, and the ramp's target.

        Where gates settle, also `density_alive`, of those that are not closed for good, and how many `reopened`: they
        had been shut for long enough, but the ramp had not ended or the plan kept them. What the closed ones would do
        is not known: nothing is computed of them.
        """
        target = self.density(self.progress) if self.begun else 1.0
        expected = float(self.expected()) if self.begun else 1.0
        found = {"density": self._counted(), "density_expected": expected, "density_target": target}
        if self.settle:
            found |= {"density_alive": self.space.density(self.alive), "reopened": float(self.reopened.sum())}
        return found

    def get_extra_state(self) -> Tensor:
        return torch.cat(
            [super().get_extra_state(), torch.tensor([self.draws, self.reached, self.seed], dtype=torch.double)]
        )

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.reached, self.seed = int(state[-3]), bool(state[-2]), int(state[-1])


def _checked(shape: Mapping[str, int], space: Space) -> dict[str, int]:
    """A shape that the space can take.

    Raises:
        UserError: a kind that the space has not, or whose groups differ in size, or more units than there are.
    """
    if space.round_to > 1:
        raise UserError("a shape says every size itself: leave round_to out, or the shape")
    for name, units in shape.items():
        groups = [group for group in space.groups if group.kind == name]
        if not groups:
            raise UserError(
                f"the shape names {name!r}, the space has {', '.join(space.units)}: prune {name!r} too, or leave it out"
            )
        if len(sizes := sorted({group.size for group in groups})) > 1:
            raise UserError(
                f"the shape names {name!r}, whose groups have {' and '.join(map(str, sizes))} units: a shape is for "
                "layers of one size; ask for a density"
            )
        most = groups[0].size if groups[0].size > 1 else len(groups)
        if type(units) is not int or not 0 < units <= most:
            raise UserError(f"the shape keeps {units!r} of {name!r}: expected a whole number from 1 to {most}")
    return dict(shape)


# The published accounting (l0_module.py): biases count in the whole, in the heads, and not in the FFN.


def published_size(space: Space) -> int:
    """M: parameters of all layers as the published code counts them, `L (4 H^2 + 4 H) + L (2 H I + 5 H)`."""
    hidden, wide = space.table.sizes["hidden"], space.table.sizes["0.ffn"]
    return len(space.table.layers) * (4 * hidden**2 + 4 * hidden + 2 * hidden * wide + 5 * hidden)


def published_sparsity(space: Space, probabilities: Tensor) -> Tensor:
    """`()` expected sparsity by the published formulas, which differ with and without the hidden dims' gate.

    With p the probabilities that gates are open, E is `sum p_hidden (4 H + 4) / A sum p_attention p_head
    + 2 sum p_hidden sum p_mlp p_neuron`, or without the hidden gate `(4 H^2 + 4 H) / A sum p_attention p_head +
    floor((2 H I + 5 H) / I) sum p_mlp p_neuron`; the sparsity is 1 - E / M.
    """
    table, open_ = space.table, space.at_sites(probabilities)
    hidden, wide = table.sizes["hidden"], table.sizes["0.ffn"]
    one = probabilities.new_ones(())
    heads = neurons = probabilities.new_zeros(())
    for layer in table.layers:
        attention, mlp = (open_.get(f"{layer}.{sublayer}", one).sum() for sublayer in ("attention", "mlp"))
        on_vo = open_.get(f"{layer}.vo", one.expand(hidden))
        heads = heads + attention * on_vo.sum() / table.head_dim
        neurons = neurons + mlp * open_.get(f"{layer}.ffn", one.expand(wide)).sum()
    head_size = (4 * hidden**2 + 4 * hidden) // table.heads
    if "hidden" in open_:
        expected = open_["hidden"].sum() * (head_size / hidden * heads + 2 * neurons)
    else:
        expected = head_size * heads + (2 * hidden * wide + 5 * hidden) // wide * neurons
    return 1.0 - expected / published_size(space)
