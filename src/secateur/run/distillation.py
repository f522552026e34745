"""What a student is taught: the terms of a recipe, and how they go on when the model has been cut.

RUN/terms.safetensors    the weights of the terms, as pruning left them
RUN/moments              what the optimizer knew of these, and of the cut model
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.run.recipe import Recipe
from secateur.structure.plan import Plan
from secateur.structure.space import Space
from secateur.surgery.optimizer_state import ORDERS, Moments, load_moments, save_moments
from secateur.training.objectives import STACKS, Hidden, Labels, Logits, Term

TERMS, MOMENTS = "terms.safetensors", "moments"
PARTS = ("model", "terms")
"""Whose moments there are."""


@dataclass(frozen=True)
class Lessons:
    """The terms of a recipe, of which what is learned is kept in a run's folder.

    Attributes:
        writes: whether the models have an encoder and a decoder, with a term of hidden states each.
    """

    recipe: Recipe
    folder: Path
    writes: bool

    def terms(self) -> list[Term]:
        """The terms of the loss, as pruning begins with them."""
        d = self.recipe.distillation
        terms: list[Term] = [Logits(d.temperature, d.logits_weight, divergence=d.divergence), *self._hidden()]
        if d.labels_weight:
            terms.append(Labels(d.labels_weight, smoothing=d.label_smoothing))
        return terms

    def _hidden(self) -> list[Hidden]:
        """The term of hidden states, if any; a term for each stack that is asked for where a model has two."""
        d = self.recipe.distillation
        if d.hidden is None:
            return []
        both = STACKS if d.hidden_of == "both" else (d.hidden_of,)
        options: dict[str, Any] = {"project": d.hidden_projection, "match": d.match}
        return [
            Hidden(d.hidden, d.hidden_weight, stack=stack, **options) for stack in (both if self.writes else (None,))
        ]

    def layers(self, teacher: PreTrainedConfig) -> tuple[list[int], list[int]]:
        """Numbers of the teacher's layers that terms ask for: of its encoder, or only stack, and of its decoder."""
        asked = {term.stack or "encoder": term.matched(term.depth_of(teacher)) for term in self._hidden()}
        return asked.get("encoder", []), asked.get("decoder", [])

    # Over the cut

    def leave(self, terms: torch.nn.ModuleList, moments: dict[str, Moments]) -> None:
        """Keep the terms' weights, and the moments of `PARTS`, of which the model's are cut already."""
        save_file(terms.state_dict(), self.folder / TERMS)
        for part in PARTS:
            save_moments(moments[part], self.folder / MOMENTS / f"{part}.safetensors")

    def forget(self) -> None:
        """Remove what was left."""
        (self.folder / TERMS).unlink(missing_ok=True)
        shutil.rmtree(self.folder / MOMENTS, ignore_errors=True)

    def continued(self, cut: Cut) -> list[Term]:
        """The terms as pruning left them, for the cut model."""
        return self._restricted(load_file(self.folder / TERMS), cut)

    def continued_moments(self, cut: Cut) -> dict[str, Moments]:
        """What the optimizer of pruning knew, of what is left of the model and of the terms."""
        known = {part: load_moments(self.folder / MOMENTS / f"{part}.safetensors") for part in PARTS}
        return known | {"terms": self._restricted_moments(known["terms"], cut)}

    def _restricted_moments(self, moments: Moments, cut: Cut) -> Moments:
        """Moments of the terms' weights, cut as these are: as if they were such weights."""
        found: Moments = {name: {"step": state["step"]} for name, state in moments.items()}
        for key in ORDERS if moments else ():
            values = load_file(self.folder / TERMS) | {name: state[key] for name, state in moments.items()}
            left = dict(torch.nn.ModuleList(self._restricted(values, cut)).named_parameters())
            for name in moments:
                found[name][key] = left[name].detach()
        return found

    def _restricted(self, values: dict[str, Tensor], cut: Cut) -> list[Term]:
        """The terms with these weights, their projections cut to the stream that is left."""
        terms = self.terms()
        for term in terms:
            term.bind(cut.small, cut.teacher)
        torch.nn.ModuleList(terms).load_state_dict(values)
        left = cut.plan.read(cut.space)
        for term in terms:
            term.restrict(left.indices("hidden"), left.layers_left())
        return terms


@dataclass(frozen=True)
class Cut:
    """What became of a model: the small one, beside its teacher, by a plan over a space."""

    small: PreTrainedModel
    teacher: PreTrainedModel
    plan: Plan
    space: Space
