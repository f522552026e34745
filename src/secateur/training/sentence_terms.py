"""Terms of the loss for models that return one vector of each text, `sentence_embedding` `(batch, dims)`.

    objective = [Embedding(), Similarity(temperature=0.05)]      # a teacher's vectors, and their similarities
    objective = [Contrastive(), Similarity()]                    # pairs of texts that belong together

Distillation of the vectors themselves is that of Reimers and Gurevych (EMNLP 2020, arXiv 2004.09813), which takes the
mean squared error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.methods.options import number
from secateur.surgery.sentence.attach import head_of
from secateur.surgery.sentence.similarity import COSINE, SIMILARITIES, scale
from secateur.system.errors import UserError
from secateur.training.step import Step, Term
from secateur.training.terms import register

TEMPERATURE = 0.05
"""Of the softmax over similarities, which in [-1, 1] differ little without one; that of SimCSE (Gao et al. 2021)."""
NEVER = -1e9
"""A logit with softmax probability 0; finite, because 0 times it must be 0."""


def vectors(outputs: Any) -> Tensor:
    """The vectors of a batch, `(batch, dims)`, in float32.

    Raises:
        UserError: the model returns none.
    """
    found = getattr(outputs, "sentence_embedding", None)
    if found is None:
        raise UserError(
            "a term of sentence embeddings needs a model that returns them, and this one does not: take the task "
            "embedding, with a sentence-transformers model or --pooling"
        )
    return found.float()


@register("embedding")
class Embedding(Term):
    """The difference of the student's vector of a text from the teacher's, averaged over texts.

    Where the vector is one of a residual stream whose hidden dims are pruned, only the dims that are left are compared;
    the teacher's are normalised anew if its vectors have norm 1. Cutting these dims therefore does not change the
    value. A head that ends in a Dense layer has vectors of one width, whatever its stream has, and all of them count.

    Args:
        loss: "cosine", 1 - the cosine of the vectors; "distance", their squared distance over twice the mean squared
            length of the teacher's, which is the same for vectors of length 1; or "mse", the squared error of an entry.
            By default "cosine", and "distance" if the model's vectors are not normalised and are compared by more than
            their cosine (`SentenceHead.similarity`), so that their lengths count.

    Raises:
        UserError: the loss is another one; from `bind`, the models' vectors have different widths.
    """

    name = "embedding"
    needs_teacher = True
    heard_as = "logits"
    replayable = True

    def __init__(self, weight: float = 1.0, loss: str | None = None) -> None:
        super().__init__(weight)
        _check("loss", loss or "cosine", ("cosine", "distance", "mse"))
        self.asked, self.loss = loss, loss or "cosine"
        self.of_stream = self.normalised = False
        self.poolings = 1  # whose vectors of the stream are concatenated
        self.width: int | None = None  # dims of the student's vectors before its stream is cut
        self.dims: Tensor | None = None  # those left of the stream once the student was cut

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        head = head_of(student)
        self.of_stream = head is not None and not len(head.dense)
        self.normalised = head is not None and head.normalise
        self.poolings = 1 if head is None else len(head.poolings)
        if head is not None:
            lengths_count = not head.normalise and head.similarity != COSINE
            self.loss = self.asked or ("distance" if lengths_count else "cosine")
            self.width = self.poolings * student.config.hidden_size if self.of_stream else head.size
            taught = None if teacher is None else head_of(teacher)
            _check_widths(self.width, self.width if taught is None else taught.size)

    def restrict(self, dims: Tensor, layers: Tensor) -> None:
        self.dims = dims

    def forward(self, step: Step) -> Tensor:
        student, teacher = vectors(step.student), vectors(step.teacher)
        before = self.width if self.of_stream and self.dims is not None else None
        _check_widths(before or student.shape[-1], teacher.shape[-1])
        kept = self._kept(step, teacher)
        if kept is not None:
            teacher = teacher[:, kept] if kept.dtype == torch.long else teacher * kept
            teacher = functional.normalize(teacher, dim=-1) if self.normalised else teacher
        if self.loss == "cosine":
            return 1.0 - functional.cosine_similarity(student, teacher, dim=-1).mean()
        if self.loss == "distance":
            squared = teacher.square().sum(-1).mean().clamp(min=1e-12)
            return (student - teacher).square().sum(-1).mean() / (2 * squared)
        counted = student.shape[-1] if kept is None or kept.dtype == torch.long else kept.sum()
        return (student - teacher).square().sum(-1).mean() / counted

    def _kept(self, step: Step, teacher: Tensor) -> Tensor | None:
        """The dims of the stream that are left: their indices, or 0 or 1 for each under masks; None for all.

        The masks only say which they are. The target has no gradient.
        """
        if not self.of_stream:
            return None
        if self.dims is not None:
            self.dims = self.dims.to(teacher.device)  # once: a copy from the host cannot be recorded
            width = teacher.shape[-1] // self.poolings
            return torch.cat([self.dims + width * number for number in range(self.poolings)])
        masks = step.sites.get("hidden")
        return None if masks is None else (masks.detach() != 0).float().repeat(self.poolings)


class _OfSimilarities(Term):
    """A term of how similar vectors are, by the similarity that the student's folder states, by default the cosine.

    What is no cosine is divided by the `scale` of a batch.
    """

    replayable = True

    def __init__(self, weight: float = 1.0, temperature: float = TEMPERATURE) -> None:
        super().__init__(weight)
        self.temperature = number("temperature", temperature, above=0.0)
        self.similarity = COSINE

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        head = head_of(student)
        self.similarity = COSINE if head is None else head.similarity

    def _among(self, rows: Tensor, scaled_by: Tensor) -> Tensor:
        """`(rows, rows)`: the similarities of vectors, over the scale of others."""
        return SIMILARITIES[self.similarity](rows, rows) / scale(self.similarity, scaled_by)


@register("similarity")
class Similarity(_OfSimilarities):
    """The difference of the similarities between the texts of a batch from the teacher's; the widths may differ.

    The similarity is that of the model's folder, by default the cosine. Dot products and distances, of the student too,
    are divided by the mean squared length of the teacher's vectors, or by their length.

    Args:
        loss: "kl", the divergence KL(teacher || student) of each text's distribution over the other texts, softmax of
            their similarities at a temperature, averaged over texts; or "mse", the squared error of a similarity.
        temperature: of the softmax.

    The value is 0 for a batch of one text.

    Raises:
        UserError: the loss is another one, or the temperature is not positive.
    """

    name = "similarity"
    needs_teacher = True
    heard_as = "logits"

    def __init__(self, weight: float = 1.0, loss: str = "kl", temperature: float = TEMPERATURE) -> None:
        super().__init__(weight, temperature)
        _check("loss", loss, ("kl", "mse"))
        self.loss = loss

    def forward(self, step: Step) -> Tensor:
        taught = vectors(step.teacher)
        student, teacher = (self._among(own, taught) for own in (vectors(step.student), taught))
        itself = torch.eye(len(student), device=student.device, dtype=torch.bool)
        if self.loss == "mse":
            return (student - teacher).square().masked_fill(itself, 0.0).sum() / max(1, itself.numel() - len(itself))
        log_student, log_teacher = (
            functional.log_softmax((each / self.temperature).masked_fill(itself, NEVER), dim=-1)
            for each in (student, teacher)
        )
        return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()


@register("contrastive")
class Contrastive(_OfSimilarities):
    """The cross-entropy of finding each anchor's positive among all positives and negatives of the batch.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4) with the other texts of the batch as negatives
    (Henderson et al. 2017, arXiv 1705.00652, section 4.4: multiple negatives ranking): `-log softmax(similarities /
    temperature)`, averaged over the pairs that are in one batch. The rows of an example are its anchor, its positive
    and, if it has one, its negative. The value is 0 for a batch without a pair. It needs no teacher. The similarity is
    that of the model's folder, by default the cosine; dot products and distances are divided by the mean squared length
    of the batch's vectors, or by their length.

    Raises:
        UserError: the temperature is not positive; from the trainer, the rows of the data are no pairs.
    """

    name = "contrastive"
    needs_examples = True
    heard_as = "labels"

    def forward(self, step: Step) -> Tensor:
        assert step.examples is not None
        examples, places = step.examples.unbind(dim=1)
        rows = vectors(step.student)
        anchors = (places == 0).unsqueeze(1)
        logits = (self._among(rows, rows) / self.temperature).masked_fill(places == 0, NEVER)
        pairs = (examples[:, None] == examples) & anchors & (places == 1)
        found = functional.log_softmax(logits, dim=-1) * pairs
        return -found.sum() / pairs.sum().clamp(min=1)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} {value!r} is not known: choose one of {', '.join(known)}")


def _check_widths(student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(
            f"the student's vectors have {student} dims and the teacher's {teacher}, which the term embedding cannot "
            "compare: ask for the teacher's width by --output-dim teacher, or take the term similarity alone"
        )
