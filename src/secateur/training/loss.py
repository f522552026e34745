"""The loss of a micro-batch, term by term: runs the student and the teacher over it and evaluates every term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.token_types import unread_types
from secateur.surgery.masking import Attachment
from secateur.surgery.optimizer_state import Moments
from secateur.surgery.schema import Structure
from secateur.surgery.uncut import planned_space
from secateur.system.errors import UserError
from secateur.training.examples import examples_for
from secateur.training.step import DECODER_INPUTS, INDEX, Step, Term, decoder_inputs, restrict_terms
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.term_moments import restricted_moments

NONE: Mapping[str, Moments] = MappingProxyType({})


class TermLoss:
    """The terms of a loss with the models that they compare.

    Args:
        student: the model that is trained, without a wrapper.
        teacher: frozen, or its cached outputs; None if no term needs one.
        label_names: keys of a batch that the teacher does not get, besides `labels`, and token types if it has one.
        bf16: whether a teacher that runs does so under autocast, as the outputs of a cached one were computed.
        rows: to train on, whose examples some terms need.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student: PreTrainedModel,
        teacher: PreTrainedModel | CachedTeacher | None,
        label_names: Sequence[str],
        bf16: bool = False,
        rows: Any = None,
    ) -> None:
        self.examples = examples_for(terms, rows)
        self.terms, self.student = terms, student
        self.teacher: Any = teacher
        self.hidden = any(term.needs_hidden for term in terms)
        self.taught = teacher is not None and any(term.needs_teacher for term in terms)
        self.left_out, self.bf16 = {"labels", *label_names, *unread_types(teacher)}, bf16

    def bind(self, teacher: Any, moments: Mapping[str, Moments] = NONE) -> Mapping[str, Moments]:
        """Let the terms create what depends on the models, and adapt to a student that was cut.

        Args:
            teacher: whole, also where a training has put one in parts into its place.
            moments: of an optimizer, by what it has trained; those of `terms` are cut with their weights.

        Returns:
            The moments, as they fit the terms.

        Raises:
            UserError: a term or moments do not fit the models, or a term has to be adapted to a student whose plan is
                not known.
        """
        for term in self.terms:
            term.bind(self.student, teacher)
        adapting = [term for term in self.terms if type(term).restrict is not Term.restrict]
        if not adapting:
            return moments
        if getattr(self.student, "plan", None) is None:
            _check_whole(self.student, [term.name for term in adapting if term.restricted_to is None])
        else:
            space, plan = planned_space(self.student)
            left = plan.read(space)
            dims, layers = left.indices("hidden"), left.layers_left()
            if "terms" in moments:
                moments = {**moments, "terms": restricted_moments(self.terms, moments["terms"], dims, layers)}
            restrict_terms(adapting, dims, layers)
        return moments

    def step(
        self,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        index: Tensor | None = None,
        attachment: Attachment | None = None,
        progress: float = 0.0,
        taught: Any = None,
        examples: Tensor | None = None,
    ) -> Step:
        """Run the models over a batch.

        Args:
            model: the student, as it may be wrapped.
            index: `(batch,)`, numbers of the rows, which a cached teacher and the examples need.
            attachment: the masks on the student, if any.
            taught: the teacher's outputs, if they were read before (`cached_outputs`).
            examples: `(batch, 2)`, those of the rows, if they were read before (`examples_of`).
        """
        batch = self.with_decoder_inputs(batch)
        student = model(**batch, output_hidden_states=self.hidden)
        teacher = taught if taught is not None or not self.taught else self._teacher_outputs(batch, index)
        examples = self.examples_of(index) if examples is None else examples
        if attachment is None:
            return Step(batch, student, teacher, progress=progress, examples=examples)
        return Step(batch, student, teacher, attachment.masks, attachment.at_sites, progress, examples)

    def values(self, step: Step, shares: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The value `()` of each term by its name, with its weight, times the batch's share of what it averages.

        Of a share of 0 it is 0: the average over nothing may be no number.
        """
        values = {term.name: term.weight * term(step) for term in self.terms}
        if shares is None:
            return values
        own = {term.name: shares[term.over(step)] for term in self.terms}
        return {name: torch.where(own[name] > 0, value * own[name], 0.0) for name, value in values.items()}

    def with_decoder_inputs(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch with the inputs of a decoder: student and teacher must get the same."""
        if DECODER_INPUTS in batch or "labels" not in batch:
            return batch
        inputs = decoder_inputs(self.student, batch["labels"])
        return batch if inputs is None else {**batch, DECODER_INPUTS: inputs}

    def cached_outputs(self, batch: Mapping[str, Tensor], index: Tensor | None) -> Any:
        """The teacher's outputs where they are cached; None where the teacher runs, or no term needs one."""
        cached = self.taught and isinstance(self.teacher, CachedTeacher)
        return self._teacher_outputs(batch, index) if cached else None

    def examples_of(self, index: Tensor | None) -> Tensor | None:
        """The examples of a batch of rows with these numbers, `(batch, 2)`; None where no term needs them.

        Raises:
            UserError: a term does, and the batch has no numbers.
        """
        return None if self.examples is None else self.examples.of(_present(index, "a term of examples"))

    @torch.no_grad()
    def _teacher_outputs(self, batch: Mapping[str, Tensor], index: Tensor | None) -> Any:
        assert self.teacher is not None
        inputs = {name: value for name, value in batch.items() if name not in self.left_out}
        if isinstance(self.teacher, CachedTeacher):
            inputs[INDEX] = _present(index, "a cached teacher")
        with torch.autocast(self.student.device.type, torch.bfloat16, enabled=self.bf16):
            return self.teacher(**inputs, output_hidden_states=self.hidden)


def _check_whole(student: PreTrainedModel, names: Sequence[str]) -> None:
    """Refuse terms that have to know which dims and layers a student has left, if nothing says it."""
    described = getattr(student.config, "secateur", None)
    structure = None if described is None else Structure.from_dict(described)
    if names and structure is not None and (structure.embedding or structure.norm or structure.replaced):
        raise UserError(
            f"the model was cut and has no plan, by which {' and '.join(names)} would know the dims and layers that it "
            "has left: load it from a folder with its plan.json, or leave these terms out"
        )


def _present(index: Tensor | None, what: str) -> Tensor:
    """The numbers of the rows of a batch, which `what` needs.

    Raises:
        UserError: the batch has none.
    """
    if index is None:
        raise UserError(f"{what} needs batches that carry {INDEX!r}, the numbers of their rows")
    return index
