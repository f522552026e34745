"""Terms of the loss: the task's own loss, distillation of logits and of hidden states.

    objective = [Logits(temperature=8.0), Hidden(layers="every 2")]

Each term takes a `Step` and returns a scalar. Terms are modules, because some have weights of their own. Methods do not
depend on terms, nor terms on methods.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.methods.options import number, truth
from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError
from secateur.training.hidden_states import STACKS, Hidden, masked_mse
from secateur.training.reranking_terms import MarginMSE
from secateur.training.sentence_terms import Contrastive, Embedding, Similarity
from secateur.training.step import DECODER_INPUTS, Step, Term, compared, predicts_next, real_tokens
from secateur.training.terms import register

__all__ = [
    "STACKS",
    "UNLABELLED",
    "Contrastive",
    "Embedding",
    "Hidden",
    "Labels",
    "Logits",
    "MarginMSE",
    "Similarity",
    "Step",
    "Term",
    "masked_mse",
]

REGRESSION, SEVERAL_LABELS = "regression", "multi_label_classification"
"""Values of a model's `problem_type`."""
PADDING_LOGIT = -1e9
"""A logit with softmax probability 0 at any temperature; finite, because 0 times it must be 0."""


@register("labels")
class Labels(Term):
    """The task's own loss, as the model computes it from `labels`.

    For one output that is the squared error, but the binary cross-entropy if the model's `problem_type` is
    multi_label_classification, with labels `(batch, 1)`, which a task sets for re-rankers (`tasks.one_output`).

    With `smoothing` it is the cross-entropy with labels of which that part is spread evenly over all classes (Szegedy
    et al., 2016). fairseq spreads it over the other classes: of V classes its smoothing is `smoothing (V - 1) / V`.
    The value is 0 for a batch without a label.

    Raises:
        UserError: `smoothing` is not in [0, 1), or the model has no classes to spread it over; the model computes no
            loss, for want of labels or of a head.
    """

    name = "labels"
    replayable = True

    def __init__(self, weight: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__(weight)
        self.smoothing = number("smoothing", smoothing, least=0.0, below=1.0)
        self.of_next = False  # whether an output is of the next token

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        self.of_next = predicts_next(student)

    def over(self, step: Step) -> str:
        return "labels" if "labels" in step.batch else "rows"

    def forward(self, step: Step) -> Tensor:
        loss: Tensor | None = getattr(step.student, "loss", None)
        if loss is None:
            raise UserError(
                "the term labels is the loss that the model computes, and it computes none: give it rows with labels "
                "and a head that reads them, or leave the term out"
            )
        loss = self._smoothed(step) if self.smoothing else loss
        labels = step.batch.get("labels")
        if labels is None or labels.is_floating_point():
            return loss
        counted = labels[:, 1:] if self.of_next else labels
        return torch.where((counted != UNLABELLED).any(), loss, 0.0)  # an average over no labels is none

    def _smoothed(self, step: Step) -> Tensor:
        """`()`: the cross-entropy with smoothed labels."""
        logits = getattr(step.student, "logits", None)
        if logits is None or logits.shape[-1] == 1:
            raise UserError("label_smoothing spreads a label over classes, and this model has none: set it to 0")
        labels = step.batch["labels"]
        if labels.is_floating_point():
            raise UserError("label_smoothing spreads a label over classes, and a row here has several: set it to 0")
        if self.of_next:
            logits, labels = logits[:, :-1], labels[:, 1:]
        classes = logits.float().flatten(0, -2)
        return functional.cross_entropy(classes, labels.flatten(), label_smoothing=self.smoothing)


@register("logits")
class Logits(Term):
    """Soft cross-entropy of the student's logits with the teacher's at a temperature, averaged over what is classified.

    What is classified depends on the shape of the logits:

    - an example, with logits `(batch, labels)`;
    - a real token, with logits `(batch, tokens, labels)`; for a model with a decoder a token of the target whose label
      is not -100;
    - for extractive question answering an example twice, into the real tokens at which its answer starts and ends,
      with logits `(batch, tokens)` each. The value is the mean of both, as in CoFi's code (GRAIN's code takes the sum,
      and counts padding as tokens).

    `-sum softmax(t / tau) log_softmax(s / tau)` (GRAIN section 5; its published code has no factor tau^2).
    With `divergence` it is `tau^2 KL(softmax(t / tau) || softmax(s / tau))` (CoFi eq. 7; Hinton et al., 2015): 0 where
    the logits agree, and with gradients that do not shrink as the temperature rises.
    Of a model with one output, a score or a logit, or whose `problem_type` is regression, it is the mean squared error
    of the outputs, without a temperature.
    A model with several outputs whose `problem_type` is multi_label_classification has a sigmoid for each label: the
    binary cross-entropy with the teacher's probabilities (or tau^2 times the divergence), averaged over the labels as
    in the model's own loss. Without one the teacher's counts, and else the labels of the rows: floats are several, as
    transformers takes them.

    Raises:
        UserError: the temperature is not positive; a model has no logits, or they are of other shapes than the other's.
    """

    name = "logits"
    needs_teacher = True
    replayable = True

    def __init__(self, temperature: float = 8.0, weight: float = 1.0, divergence: bool = False) -> None:
        super().__init__(weight)
        self.temperature = number("temperature", temperature, above=0.0)
        self.divergence = truth("divergence", divergence)
        self.problem_type: str | None = None  # of the models, None if neither has one

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        configs = [model.config for model in (student, teacher) if model is not None]
        self.problem_type = next(filter(None, (getattr(config, "problem_type", None) for config in configs)), None)

    def over(self, step: Step) -> str:
        logits = getattr(step.student, "logits", None)
        if logits is None or logits.dim() < 3:
            return "rows"
        return "labels" if DECODER_INPUTS in step.batch else "tokens"

    def forward(self, step: Step) -> Tensor:
        if getattr(step.student, "start_logits", None) is not None:
            return (self._of_positions("start_logits", step) + self._of_positions("end_logits", step)) / 2
        student, teacher = compared("logits", step)
        if student.shape[-1] == 1 or self.problem_type == REGRESSION:
            return functional.mse_loss(student, teacher)
        if self._has_sigmoids(step):
            return self._of_labels(student, teacher)
        return self._distilled(student, teacher, step)

    def _has_sigmoids(self, step: Step) -> bool:
        """Whether each of several outputs is a label of its own."""
        if self.problem_type is not None:
            return self.problem_type == SEVERAL_LABELS
        labels = step.batch.get("labels")
        return labels is not None and labels.is_floating_point()

    def _of_labels(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`()` of logits `(batch, labels)` in float32, each with a sigmoid."""
        wanted = torch.sigmoid(teacher / self.temperature)
        crossed = functional.binary_cross_entropy_with_logits(student / self.temperature, wanted)
        if not self.divergence:
            return crossed
        entropy = functional.binary_cross_entropy_with_logits(teacher / self.temperature, wanted)
        return self.temperature**2 * (crossed - entropy)

    def _of_positions(self, name: str, step: Step) -> Tensor:
        student, teacher = (_without_padding(logits, step) for logits in compared(name, step))
        return self._distilled(student, teacher, step)

    def _distilled(self, student: Tensor, teacher: Tensor, step: Step) -> Tensor:
        """`()` of logits in float32, classes last."""
        log_student = functional.log_softmax(student / self.temperature, dim=-1)
        log_teacher = functional.log_softmax(teacher / self.temperature, dim=-1)
        if self.divergence:
            return self.temperature**2 * _mean((log_teacher.exp() * (log_teacher - log_student)).sum(-1), step)
        return -_mean((log_teacher.exp() * log_student).sum(-1), step)


def _without_padding(logits: Tensor, step: Step) -> Tensor:
    """Logits `(batch, tokens)`; padding gets probability 0 and no gradient."""
    return logits.masked_fill(real_tokens(step, of_target=False, like=logits) == 0, PADDING_LOGIT)


def _mean(values: Tensor, step: Step) -> Tensor:
    """`()`: over examples `(batch,)`, or over real tokens `(batch, tokens)`, special ones included; 0 without any."""
    if values.dim() == 1:
        return values.mean()
    real = real_tokens(step, of_target=DECODER_INPUTS in step.batch, like=values)
    return (values * real).sum() / real.sum().clamp(min=1)
