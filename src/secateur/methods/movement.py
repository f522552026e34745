"""Block movement pruning: learned scores over tiles of weights (Lagunas et al., EMNLP 2021, arXiv 2109.04838).

By the sections of the specification, which follows paper and code (huggingface/nn_pruning):
    sec 2  a score for every tile of a weight, and for every neuron                        the space, `units_of`
    sec 3  hard masks by top-k, threshold or sigmoid threshold; identity gradient          `masks`, `BINARISERS`
    sec 3  so a tile's score moves by -lr sum(W dL/dW), pruned or not: it may return       `masks`
    sec 4  the threshold's cubic ramp; the penalty ramps with it                           `_threshold`, `penalty`
    sec 5  L1 of the sigmoids of the scores (or the expected L0)                           `penalty`, `REGULARISERS`
    sec 8  what zeros are left inside is filled and trained again (variant filled)         `fills`
    sec 6  distillation is not here: `objectives.Logits(divergence=True)`, `objectives.Labels`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. The density is the target. A controller sets the threshold, every few steps, to the one at which the counted
       density is that of the schedule; the published code ramps the threshold itself, and its density must be found by
       trying strengths of the penalty.
    2. A score weighs in the penalty by the parameters that it governs; published, every score tensor weighs the same.
    3. A neuron's mask acts once, at its activation, so that a pruned one can return; published (`1d_alt`, units
       `ffn/tied`) it acts at both weights, and a pruned neuron hears nothing.
Not reproduced: gradients of scores are clipped together with those of the weights; evaluation jumps to the last
threshold; biases of the residual stream are masked; a head goes when its query or key is empty (it is not dead: it
means the values, and stays); scores of rows times columns (`1d`), shared by the weights of a layer (`joint`) or of 2:4
patterns; LayerNorm stays, and GELU where the config of the recipe's model does not say ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import descending
from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.binarisers import BINARISERS, RAMPS
from secateur.methods.gates import HardConcrete
from secateur.methods.method import Amount, Method
from secateur.system.errors import UserError

TILE = 32


def units_of(variant: str, tile: int = TILE, faithful: bool = False) -> tuple[str, str]:
    """The units of a variant: of the attentions, and of the feed-forward networks.

    Raises:
        UserError: there is no such variant.
    """
    neurons = "ffn/tied" if faithful else "ffn"
    known = {
        "unstructured": ("attention/1x1", "ffn/1x1"),
        "block": (f"attention/{tile}x{tile}", f"ffn/{tile}x{tile}"),
        "hybrid": (f"attention/{tile}x{tile}", neurons),
        "struct": ("attention/head", neurons),
        "filled": (f"attention/{tile}x{tile}", neurons),
    }
    if not isinstance(variant, str) or variant not in known:
        raise UserError(f"variant {variant!r} is not known: choose from {', '.join(known)}, or leave it out")
    return known[variant]


REGULARISERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.sigmoid,
    "l0": HardConcrete(temperature=2 / 3).open_probability,
}


@register("movement")
class Movement(Method):
    """Learns a score for every tile and neuron with the weights, by straight-through masks; what is pruned may return.

    Args:
        space: usually `Space(model, "attention/32x32", "ffn")`; any units work.
        density: the schedule that the controller follows, `cubic(1.0, target, begin=b, end=e)`; where `faithful`, the
            ramp of the threshold has its begin and end, and its target is a limit.
        variant: checks that the units are those of `units_of`; `filled` is hybrid, and fills the zeros when it is cut.
        tile: side of the variant's square tiles.
        binariser: `sigmoid` and `threshold` rank all scores together, `topk` keeps the same share of every group.
        threshold: where `faithful`, from which to which (paper: 0 to 0.1 for `sigmoid`).
        every: steps from one choice of the controller to the next; the last density's first step is always one.
        strength: of the penalty at the end of the ramp (paper: 2.5 to 60).
        regulariser: `l1` or `l0`.
        weights: how much a kind of unit counts in the penalty, `{"ffn": 0.5}`; 1 by default.
        minimum: share of every group that is kept at least, where `faithful`.
        learning_rate: of the scores; it follows the schedule of the run (paper: 0.01).
        faithful: the published threshold and penalty.

    Raises:
        UserError: the density is out of reach, an argument is unknown or goes with `faithful` alone, the variant has
            other units, or the space counts a latency.
    """

    open: Tensor
    shares: Tensor
    budgets = ("parameters",)
    monotone = False
    defaults = {
        "target.units": ("attention/32x32", "ffn"),
        "method.begin": 0.05,
        "method.ramp": 0.8,
        "method.end": 0.6,
        "distillation.temperature": 2.0,
        "distillation.divergence": True,
        "distillation.logits_weight": 0.9,
        "distillation.labels_weight": 0.1,
        "distillation.hidden": None,
        "training.freeze_embeddings": False,
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        variant: str | None = None,
        tile: int = TILE,
        binariser: str = "sigmoid",
        threshold: Sequence[float] | None = None,
        every: int = 8,
        strength: float = 10.0,
        regulariser: str = "l1",
        weights: Mapping[str, float] | None = None,
        minimum: float = 0.0,
        learning_rate: float = 0.01,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density)
        self.variant, self.binariser, self.faithful = variant, binariser, faithful
        self.strength, self.regulariser, self.minimum = strength, regulariser, minimum
        self.learning_rate, self.every = learning_rate, every
        self._check(tile, threshold, weights or {})
        self.budget = Parameters(filled=self.fills)  # the plan is filled before it is stored
        ramp = threshold or RAMPS[binariser] or (0.0, 0.0)
        self.threshold = replace(self.asked, curve="cubic", start=float(ramp[0]), stop=float(ramp[1]))
        self.moved = replace(self.asked, curve="cubic", start=0.0, stop=1.0)
        self.movement = nn.Parameter(space.ones() * 0.0)  # S of the paper
        self.register_buffer("open", torch.ones_like(self.alive))
        self.register_buffer("shares", self._shares(weights or {}), persistent=False)

    def _check(self, tile: int, threshold: Sequence[float] | None, weights: Mapping[str, float]) -> None:
        _check_name("binariser", self.binariser, BINARISERS)
        _check_name("regulariser", self.regulariser, REGULARISERS)
        units = self.space.units
        if type(self.every) is not int or self.every < 1:
            raise UserError(f"every is {self.every!r}: expected a whole number of steps, 1 or more")
        if unknown := sorted(set(weights) - set(units)):
            raise UserError(f"weights names {unknown[0]!r}, the units are {', '.join(units)}: weigh these")
        self._check_threshold(threshold)
        wanted = units if self.variant is None else units_of(self.variant, tile, self.faithful)
        if wanted != units:
            raise UserError(
                f"the variant {self.variant!r} has the units {', '.join(wanted)}, not {', '.join(units)}: leave one of "
                "the two out"
            )

    def _check_threshold(self, threshold: Sequence[float] | None) -> None:
        if not self.faithful and (threshold is not None or self.minimum):
            raise UserError("threshold and minimum go with faithful: the density decides here; drop them, or set it")
        if self.faithful and threshold is None and RAMPS[self.binariser] is None:
            raise UserError("the binariser 'threshold' has no usual ramp: set threshold to two scores, from and to")
        if threshold is not None and (not isinstance(threshold, Sequence) or len(threshold) != 2):
            raise UserError(f"threshold {threshold!r} is no pair: say from which to which it goes")

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the units of the variant that the options name."""
        variant, tile = options.get("variant") or "hybrid", options.get("tile", TILE)
        return {**cls.defaults, "target.units": units_of(variant, tile, bool(options.get("faithful")))}

    @property
    def shrinks(self) -> bool:
        return False

    @property
    def fills(self) -> bool:
        return self.variant == "filled"

    # Masks

    def masks(self) -> Tensor:
        """`(N,)` of 0 and 1; the gradient goes to the scores as it is, of closed units too."""
        kept = self.open.to(self.movement.dtype)
        return kept + (self.movement - self.movement.detach()) if self.training else kept

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        before, density = self.asked(self.progress), self.asked(progress)
        super().advance(progress)
        if self.faithful:
            self.open.copy_(self._binarised())
        elif self.steps % self.every == 0 or (density == self.asked.stop and density < before):
            self.open.copy_(self._controlled(density))

    def _binarised(self) -> Tensor:
        """`(N,)` bool: each group's scores at the threshold of the ramp."""
        rule, threshold = BINARISERS[self.binariser], self.threshold(self.progress)
        return torch.cat([rule(own, threshold, self.minimum) for _, own in self.space.by_group(self.movement)])

    def _controlled(self, density: float) -> Tensor:
        """`(N,)` bool: what is above the threshold at which the counted density is the one asked for."""
        if density == 1.0:
            return torch.ones_like(self.open)
        return self.budget.leading(self.space, self.scores(), density, self.alive)

    # The penalty

    def penalty(self) -> Tensor:
        """Strength x ramp x the mean sigmoid of the scores; the ramp is that of the threshold, over its end."""
        ramp = self.moved(self.progress)
        if self.faithful and self.threshold.stop:
            ramp = self.threshold(self.progress) / self.threshold.stop
        return self.strength * ramp * (REGULARISERS[self.regulariser](self.movement) * self.shares).sum()

    def _shares(self, weights: Mapping[str, float]) -> Tensor:
        """`(N,)`, in all 1: how much a unit counts in the mean, times what its kind is weighted with.

        By its parameters; where `faithful`, by one over the number of kinds, their groups and the group's units.
        """
        if not self.faithful:
            cost = self.space.unit_cost()
            parts = [weights.get(group.kind, 1.0) * own for group, own in self.space.by_group(cost / cost.sum())]
            return torch.cat(parts)
        names = [group.kind for group in self.space.groups]
        kinds = len(self.space.units)
        return torch.cat(
            [
                torch.full_like(own, weights.get(group.kind, 1.0) / (kinds * names.count(group.kind))) / group.size
                for group, own in self.space.by_group(self.space.ones())
            ]
        )

    def param_groups(self) -> list[dict[str, Any]]:
        """The scores, without decay, with a learning rate of their own that follows the schedule of the run."""
        return [{"params": [self.movement], "lr": self.learning_rate, "weight_decay": 0.0}]

    # What others ask

    def scores(self) -> Tensor:
        """`(N,)`: the scores; with `topk` each one's place among those of its group, the share that lies below it."""
        scores = self.movement.detach()
        if self.binariser != "topk":
            return scores
        ranks = [descending(own).argsort() for _, own in self.space.by_group(scores)]
        return torch.cat([1.0 - (rank + 0.5) / len(rank) for rank in ranks])

    def settled(self) -> bool:
        """The ramp has ended, and the density is the schedule's last."""
        return self.progress >= self.asked.end and self._counted(self.open) <= self.asked.stop + 1e-9

    def chosen(self, density: float) -> Tensor:
        """`(N,)` masks at a density; where `faithful` what the threshold left, if that is not more."""
        if self.faithful and self._counted(self.open) <= density <= 1.0:
            return self.open.float()
        among = self.open if self.faithful else self.alive
        return self.budget.choose(self.space, self.scores(), density, among).float()

    def _counted(self, kept: Tensor) -> float:
        """The density of what will be left: with the zeros inside it where these are to be filled."""
        return self.budget.share(self.space, kept)

    @torch.no_grad()
    def readings(self) -> dict[str, float]:
        """`density` counted, `density_target`, with tiles `density_filled`, and the lowest kept score's sigmoid."""
        target = {} if self.faithful else {"density_target": self.asked(self.progress)}
        filled = {"density_filled": self.space.density(self.space.filled(self.open))} if self.space.tiled else {}
        lowest = float(torch.sigmoid(self.movement[self.open].min())) if bool(self.open.any()) else 1.0
        return {"density": self._counted(self.open), **target, **filled, "threshold": lowest}


def _check_name(what: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise UserError(f"{what} {value!r} is not known: choose from {', '.join(known)}")
