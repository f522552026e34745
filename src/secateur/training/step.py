"""The contract of a term of the loss, and the record of one forward that terms read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.methods.options import number
from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError

DECODER_INPUTS = "decoder_input_ids"
"""The key of a batch with the tokens that a decoder reads: logits and decoder states are those of these tokens."""
INDEX = "index"
"""The key of a batch with the numbers of its rows; `PruningTrainer` passes them to a cached teacher only."""
OF_TASK = ("labels", "logits")
"""What a term is heard as that stands for the task (`Term.heard_as`)."""


@dataclass(frozen=True)
class Step:
    """One forward of student and teacher over one batch, which terms read.

    Attributes:
        batch: the model's inputs and `labels`; for a model with a decoder also `decoder_input_ids`, which are the same
            for student and teacher.
        student, teacher: model outputs with `logits`, or `start_logits` and `end_logits`. If a term needs them they
            have `hidden_states`, or, for a model with a decoder, `encoder_hidden_states` and `decoder_hidden_states`.
            `teacher` is None if no term needs one.
        masks: `(N,)` masks of this forward; None when nothing is being pruned.
        sites: the same masks by the place where they act: axis or gate of a sublayer -> values; empty when nothing is
            being pruned.
        progress: the fraction of the whole run that is done, in [0, 1].
        examples: `(batch, 2)`, the number of each row's example and the row's place in it, if a term needs them
            (`Term.needs_examples`).
    """

    batch: Mapping[str, Tensor]
    student: Any
    teacher: Any = None
    masks: Tensor | None = None
    sites: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    examples: Tensor | None = None


class Term(nn.Module):
    """One summand of the loss.

    Attributes:
        name: the name by which methods choose the terms that they observe, and by which logs show them; that of its
            class if it has none and is not registered.
        weight: multiplies the value.
        needs_teacher: whether the term reads the teacher's outputs.
        needs_hidden: whether it reads hidden states.
        needs_examples: whether it compares rows of the same example, which are then put into the same batch.
        heard_as: the name by which a method observes the term if it does not name the term itself: "labels" for what
            stands for the task's own loss, "logits" for what compares the outputs of the models, "hidden" for what
            compares hidden states, as of one stack; None for none.
        replayable: whether its kernels depend only on the shapes of the batch, so that a GPU may replay them
            (`replayed_steps`): it neither reads `progress` or a tensor's value, nor makes a choice on the host.
        restricted_to: the dims and layers of the cut student to which the term is adapted, as of `restrict`; None
            before.

    Raises:
        UserError: the weight is no number from 0 on.
    """

    name: str
    needs_teacher = False
    needs_hidden = False
    needs_examples = False
    heard_as: str | None = None
    replayable = False
    restricted_to: tuple[Tensor, Tensor] | None = None

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not hasattr(type(self), "name"):
            self.name = type(self).__name__
        self.weight = number("weight", weight, least=0.0)

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        """Create what depends on the models, before the optimizer is created; a term that is bound stays as it is.

        Args:
            teacher: a model, or an object that is called like one and has its `config`; None if there is none.
        """

    def remark(self) -> str | None:
        """What is to be said of how the models are compared, once the term is bound to them; None for nothing."""
        return None

    def restrict(self, dims: Tensor, layers: Tensor) -> None:
        """Adapt to a student that was cut.

        Args:
            dims: `(kept,)`, indices of the dims that its residual stream still has.
            layers: `(depth,)` bool: the layers that remain; a removed layer is the identity and keeps its number.
        """

    def over(self, step: Step) -> str:
        """What the value is an average over: `rows`, real `tokens`, or the `labels` that count (not -100).

        The value of an optimizer step is the average over those of all its micro-batches and processes.
        """
        return "rows"

    def forward(self, step: Step) -> Tensor:
        """The value of the term, `()`, an average over the batch."""
        raise NotImplementedError(f"{type(self).__name__} must compute its loss: write forward(step)")


def restrict_terms(terms: Iterable[Term], dims: Tensor, layers: Tensor) -> None:
    """Adapt terms to a student that was cut (`Term.restrict`), but for those that are adapted to it already.

    Raises:
        UserError: a term is adapted to a student that was cut otherwise, or cannot be adapted.
    """
    for term in terms:
        if term.restricted_to is None:
            term.restrict(dims, layers)
            term.restricted_to = (dims, layers)
        elif not all(map(torch.equal, term.restricted_to, (dims, layers))):
            raise UserError(
                f"the term {term.name} has been adapted to a model that was cut otherwise: make a new term for this one"
            )


def has_decoder(model: PreTrainedModel) -> bool:
    """Whether a model generates a target with a decoder that reads an encoder's output."""
    return bool(model.config.is_encoder_decoder and model.can_generate())


def predicts_next(model: PreTrainedModel) -> bool:
    """Whether the output at a token predicts the label of the next one, so that a row's first label is not used."""
    return bool(not model.config.is_encoder_decoder and model.can_generate())


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor | None:
    """The inputs of the decoder for `labels` `(batch, tokens)`, which are shifted right; None without a decoder."""
    return cast(Any, model).prepare_decoder_input_ids_from_labels(labels) if has_decoder(model) else None


def compared(name: str, step: Step) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher in float32, by the name of the output.

    Raises:
        UserError: a model returns none, or the shapes differ.
    """
    found = []
    for role, outputs in (("model", step.student), ("teacher", step.teacher)):
        logits = getattr(outputs, name, None)
        if logits is None:
            raise UserError(
                f"the outputs of model and teacher cannot be compared: the {role} returns no {name}; take one with the "
                "head of the task, or a term that compares something else"
            )
        found.append(logits.float())
    student, teacher = found
    if student.shape != teacher.shape:
        raise UserError(
            f"the {name} of model and teacher cannot be compared: their shapes are {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}; take a teacher with the labels, or the vocabulary, of the model"
        )
    return student, teacher


def real_tokens(step: Step, of_target: bool, like: Tensor) -> Tensor:
    """`(batch, tokens)`, 1 for a real token and 0 for padding: of the target, or of the model's input.

    Those of a batch without a mask, such as images, are all real: they are as many as those of `like`, `(batch, tokens,
    ...)`.
    """
    if of_target:
        return (step.batch["labels"] != UNLABELLED).int()
    if (mask := step.batch.get("attention_mask")) is not None:
        return mask
    return torch.ones(like.shape[:2], dtype=torch.int, device=like.device)
