"""The term of the loss of rerankers that compares passages of the same query."""

from __future__ import annotations

from torch import Tensor

from secateur.system.errors import UserError
from secateur.training.step import Step, Term, compared
from secateur.training.terms import register


@register("margin")
class MarginMSE(Term):
    """The squared error of the margin by which a passage is ahead of a less relevant one of the same query.

    `mean over pairs of ((s+ - s-) - (t+ - t-))^2` with the scores `s` of the student and `t` of the teacher, of the
    passage of a pair that is more relevant (+) and of the other (-): Hofstätter et al., Improving Efficient Neural
    Ranking Models with Cross-Architecture Knowledge Distillation, 2020. What is added to all scores of a query does not
    count, because it does not change their order. Pairs are those within a batch whose labels differ; the paper takes
    one for each query, and a batch here has all passages of a query, as far as it has space. A batch without a pair
    has the value 0. Rows of different micro-batches are not compared.

    Raises:
        UserError: the models have no scores, or rows no labels; from the trainer, rows do not say of which example they
            are.
    """

    name = "margin"
    needs_teacher = True
    needs_examples = True
    heard_as = "logits"
    replayable = True

    def forward(self, step: Step) -> Tensor:
        assert step.examples is not None
        student, teacher = compared("logits", step)
        if "labels" not in step.batch or step.batch["labels"].numel() != student.numel():
            raise UserError(
                "the term margin compares the scores of labelled rows: it needs models of one output, and labels"
            )
        labels, ahead = step.batch["labels"].flatten(), (student - teacher).flatten()
        errors = ahead[:, None] - ahead  # (batch, batch): of the margin of each row over each other
        of = step.examples[:, 0]
        pairs = (of[:, None] == of) & (labels[:, None] > labels)
        return (errors.square() * pairs).sum() / pairs.sum().clamp(min=1)
