"""The terms of the loss that a recipe names, and their state between pruning and recovery.

RUN/terms.safetensors    the weights of the terms (projections) at the end of pruning
RUN/moments              the optimizer's moments of these weights, and of those of the cut model
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.budget.space import Space
from secateur.run.recipe import Recipe
from secateur.structure.plan import Plan
from secateur.surgery.optimizer_state import Moments, blank_moments, load_moments, save_moments
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.model_state import without_weights
from secateur.system.tensor_file import load_tensors, save_tensors
from secateur.training.objectives import STACKS, Hidden, Labels, Logits, Term
from secateur.training.step import restrict_terms
from secateur.training.term_moments import restricted_moments
from secateur.training.terms import TERMS

WEIGHTS, MOMENTS = "terms.safetensors", "moments"
FORMAT = FileFormat()
"""Of the weights of the terms."""
PARTS = ("model", "terms")
"""The parts of the optimizer whose moments are kept."""


@dataclass(frozen=True)
class CutModel:
    """A cut model and its teacher, with the plan by which it was cut, over a space of the student before the cut."""

    model: PreTrainedModel
    teacher: PreTrainedModel
    plan: Plan
    space: Space


@dataclass(frozen=True)
class Distillation:
    """The terms of a recipe, and their state in a run's folder between pruning and recovery.

    Attributes:
        two_stacks: whether the models have an encoder and a decoder, with a term of hidden states for each.
    """

    recipe: Recipe
    folder: Path
    two_stacks: bool

    def terms(self) -> list[Term]:
        """The terms of the loss, with new weights.

        Raises:
            UserError: a further term is not registered, is a second one of its name, or does not take its arguments.
        """
        d = self.recipe.distillation
        terms: list[Term] = self._hidden()
        if d.logits_weight:
            terms.insert(0, Logits(d.temperature, d.logits_weight, divergence=d.divergence))
        if d.labels_weight:
            terms.append(Labels(d.labels_weight, smoothing=d.label_smoothing))
        terms += [_registered(name, arguments) for name, arguments in d.terms.items()]
        _check_names(terms)
        return terms

    def _hidden(self) -> list[Term]:
        """The terms of hidden states, if any: one, or one for each stack that the recipe names."""
        d = self.recipe.distillation
        if d.hidden is None:
            return []
        stacks: tuple[str | None, ...] = (None,)
        if self.two_stacks:
            stacks = STACKS if d.hidden_of == "both" else (d.hidden_of,)
        options: dict[str, Any] = {"project": d.hidden_projection, "match": d.match}
        return [Hidden(d.hidden, d.hidden_weight, stack=stack, **options) for stack in stacks]

    def layers(self, teacher: PreTrainedConfig) -> tuple[list[int], list[int]]:
        """The teacher's layers whose hidden states the terms read: of its encoder or only stack, and of its decoder."""
        reading = [term for term in self.terms() if term.needs_hidden]
        matching = [term for term in reading if isinstance(term, Hidden)]
        if len(matching) < len(reading):  # a further term may read any layer
            stacks = STACKS if self.two_stacks else (None,)
            depths = {stack or "encoder": Hidden(stack=stack).depth_of(teacher) for stack in stacks}
            read = {stack: [*range(depth + 1)] for stack, depth in depths.items()}
        else:
            read = {term.stack or "encoder": term.matched(term.depth_of(teacher)) for term in matching}
        return read.get("encoder", []), read.get("decoder", [])

    # After the cut

    def new_terms(self, cut: CutModel) -> list[Term]:
        """The terms with new weights, restricted to the cut model."""
        return self._restricted(None, cut)

    def saved_terms(self, cut: CutModel) -> list[Term]:
        """The terms with their weights at the end of pruning, restricted to the cut model."""
        return self._restricted(load_tensors(self.folder / WEIGHTS, FORMAT), cut)

    def saved_moments(self, cut: CutModel) -> dict[str, Moments]:
        """The moments of the optimizer of pruning, for the kept weights of the model and of the terms.

        In parts, only the main process has those of the model; the others have their shapes, on `meta`.
        """
        saved = {part: load_moments(self.folder / MOMENTS / f"{part}.safetensors") for part in PARTS}
        if without_weights(cut.model):
            saved["model"] = blank_moments(saved["model"])
        left = cut.plan.read(cut.space)
        dims, layers = left.indices("hidden"), left.layers_left()
        return saved | {"terms": restricted_moments(self._bound(cut), saved["terms"], dims, layers)}

    def _restricted(self, values: dict[str, Tensor] | None, cut: CutModel) -> list[Term]:
        """The terms with these weights, or new ones, whose projections are cut to the hidden dims that are left."""
        terms = self._bound(cut)
        if values is not None:
            torch.nn.ModuleList(terms).load_state_dict(values)
        left = cut.plan.read(cut.space)
        restrict_terms(terms, left.indices("hidden"), left.layers_left())
        return terms

    def _bound(self, cut: CutModel) -> list[Term]:
        """The terms with new weights, of the whole stream."""
        terms = self.terms()
        for term in terms:
            term.bind(cut.model, cut.teacher)
        return terms


def save_state(folder: Path, terms: torch.nn.ModuleList, moments: dict[str, Moments]) -> None:
    """Write to a run's folder the weights of the terms, and the moments of `PARTS`, the model's as they are cut."""
    save_tensors(folder / WEIGHTS, terms.state_dict(), FORMAT)
    for part in PARTS:
        save_moments(moments[part], folder / MOMENTS / f"{part}.safetensors")


def remove_state(folder: Path) -> None:
    """Remove from a run's folder what `save_state` wrote, as far as that is possible."""
    with suppress(OSError):  # a read-only file system refuses to remove even what is not there
        (folder / WEIGHTS).unlink(missing_ok=True)
    shutil.rmtree(folder / MOMENTS, ignore_errors=True)


def _registered(name: str, arguments: Mapping[str, Any]) -> Term:
    """A registered term, made with its arguments."""
    term: Any = TERMS.get(name)
    try:
        return term(**arguments)
    except TypeError as error:
        raise UserError(f"the arguments of the term {name!r} do not fit: {error}") from error


def _check_names(terms: Sequence[Term]) -> None:
    """Refuse two terms of one name, because the trainer and the methods identify terms by name."""
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"distillation.terms names {name!r}, which the recipe has already: name another term")
