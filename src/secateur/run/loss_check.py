"""The check of the loss before anything is trained: its terms are evaluated on a few rows, and cut as pruning will.

What a term refuses in its first step, or when the student is cut, it refuses here, before the teacher is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.run.context import Context
from secateur.run.run_data import Rows
from secateur.surgery.masking import attached
from secateur.system.model_state import evaluating
from secateur.training.loss import TermLoss
from secateur.training.objectives import Labels
from secateur.training.step import INDEX, Term

ROWS = 2
"""Rows of which the loss is computed."""


def check_loss(context: Context, student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """Check that the loss of the teacher, if it is trained here, and that of the student can be computed.

    Args:
        student: before pruning.
        teacher: None if it is trained here, from the student's model.

    Raises:
        UserError: a term refuses the data, the models, or the units.
    """
    data, units = context.data, context.recipe.target.units
    if teacher is None:
        labels = Labels(smoothing=context.recipe.distillation.label_smoothing)
        _evaluate(context, [labels], student, student, data.train_rows)
    terms = context.distillation.terms()
    for term in terms:
        term.bind(student, teacher or student)
    _evaluate(context, terms, student, teacher or student, data.distillation_rows)
    if "hidden" in units:
        layers = torch.ones(len(Space(student, *units).table.layers), dtype=torch.bool)
        for term in terms:
            term.restrict(torch.arange(student.config.hidden_size - 1), layers)


@torch.no_grad()
def _evaluate(
    context: Context, terms: Sequence[Term], student: PreTrainedModel, teacher: PreTrainedModel, rows: Rows
) -> None:
    """Evaluate the terms on the first rows, under masks that keep everything."""
    batch = dict(context.data.collator()(rows[:ROWS]))
    index = batch.pop(INDEX)
    loss = TermLoss(terms, student, teacher, context.data.task.label_names, rows=rows[:ROWS])
    space = Space(student, *context.recipe.target.units)
    with evaluating([student, teacher]), attached(student, space, space.ones()) as attachment:
        loss.values(loss.step(student, batch, index, attachment))
