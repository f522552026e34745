"""The check of a teacher before anything is distilled from it: its tokens, and its score against a constant."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.chance import BY_ERRORS, better_than
from secateur.measure.evaluation import encoded, scores_with_error
from secateur.report.verdict import NOTHING_TO_KEEP, longer_teacher
from secateur.run.context import Context
from secateur.run.run_data import Rows, RunData
from secateur.surgery.opening import tokenizer_if_any
from secateur.system.errors import NothingToKeep, UserError
from secateur.tasks.task import Task

log = logging.getLogger(__name__)

TEXTS = 64
"""Scored rows whose tokens are compared."""
ROWS = 512
"""Rows that are scored first, sampled by the seed; all are where these do not decide."""


def check_tokens(context: Context) -> None:
    """Refuse a named teacher whose tokenizer makes other tokens of the data than the model's.

    A teacher is given the tokens of the model. One without a tokenizer is only scored (`check_score`).

    Raises:
        UserError: some rows differ.
        MissingPackage: the teacher's tokenizer needs a package that is not installed.
    """
    recipe, data = context.recipe, context.data
    if recipe.teacher is None or not recipe.distillation.check_teacher:
        return
    tokenizer = tokenizer_if_any(recipe.teacher)
    if tokenizer is None:
        log.info("the teacher has no tokenizer to compare with the model's")
        return
    first = range(min(TEXTS, len(data.task.splits["validation"])))
    ours, theirs = (
        _read(data.task, encoded(data.task, "validation", words, recipe.data.max_length, first), words)
        for words in (data.tokenizer, tokenizer)
    )
    if ours != theirs:
        other = sum(pair[0] != pair[1] for pair in zip(ours, theirs, strict=False)) or len(ours)
        raise UserError(
            f"the tokenizer of the teacher {recipe.teacher!r} makes other tokens than the model's of {other} of "
            f"{len(ours)} {data.task.origin.rows}, and the teacher is given the model's: give a teacher with the "
            "tokenizer of the model, or set distillation.check_teacher: false"
        )


def _read(task: Task, rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What a tokenizer makes of the input of each row that it has encoded: token ids, or pixels."""
    if task.lengths:
        return [row["input_ids"] for row in rows]
    collate, name = task.collator(tokenizer), tokenizer.model_input_names[0]
    return [collate([dict(row)])[name].tolist() for row in rows]


def check_score(context: Context, teacher: PreTrainedModel) -> None:
    """Refuse a teacher that scores no better than the best constant prediction. All processes must call it.

    Raises:
        UserError: it does not.
    """
    if fault := _fault(context, teacher):
        raise UserError(
            f"{fault}: give a teacher that is fine-tuned for this data, state the order of its labels by --labels "
            "(data.labels), or set distillation.check_teacher: false"
        )


def check_trained(context: Context, teacher: PreTrainedModel) -> None:
    """As `check_score`, for a teacher that has been trained here.

    Raises:
        NothingToKeep: it is no better.
    """
    if fault := _fault(context, teacher):
        key, value = longer_teacher(context.recipe.to_dict()["training"])
        raise NothingToKeep(
            f"{NOTHING_TO_KEEP}: {fault}, so that nothing was distilled from it: give more rows, repeat the command "
            f"with a longer training of it (set {key}: {value}) or another rate (training.teacher_learning_rate), or "
            "go on with it as it is (set distillation.check_teacher: false)"
        )


class Comparison(NamedTuple):
    """The score of a teacher on some rows, its standard error, and the score of the best constant prediction."""

    rows: int
    score: float
    error: float | None
    constant: float
    greater_is_better: bool

    @property
    def is_better(self) -> bool:
        """Whether the teacher is better than the constant, by its standard errors."""
        return better_than(self.constant, self.score, self.error, self.greater_is_better)

    @property
    def is_worse(self) -> bool:
        """Whether the constant is better than the teacher, by as many."""
        return better_than(self.score, self.constant, self.error, self.greater_is_better)


def _fault(context: Context, teacher: PreTrainedModel) -> str | None:
    """What is wrong with the score of a teacher; few rows that leave it open are followed by all."""
    if not context.recipe.distillation.check_teacher:
        return None
    data, sampled = context.data, _sampled_rows(context)
    found = _compared(data, teacher, sampled or data.validation_rows)
    if sampled is not None and found is not None and not found.is_better and not found.is_worse:
        found = _compared(data, teacher, data.validation_rows)
    if found is None or found.is_better:
        return None
    task, by = data.task, ""
    if better_than(found.constant, found.score, None, found.greater_is_better):
        by = f", {BY_ERRORS} of {found.error:.3f}"
    return (
        f"the teacher has {task.metric} {found.score:.3f} on {found.rows} {task.origin.rows}, no better than "
        f"{found.constant:.3f}, which a constant prediction has{by}"
    )


def _compared(data: RunData, teacher: PreTrainedModel, rows: Rows) -> Comparison | None:
    """A teacher and the best constant prediction on encoded rows; None where no constant is comparable."""
    constant = data.task.baseline(rows)
    if constant is None:
        return None
    scores, error = scores_with_error(teacher, data.task, rows, data.tokenizer)
    return Comparison(len(rows), scores[data.task.metric], error, constant, data.task.greater_is_better)


def _sampled_rows(context: Context) -> Rows | None:
    """Some of the scored rows, encoded; None where all are few."""
    data, recipe = context.data, context.recipe
    count = len(data.task.splits["validation"])
    if count <= ROWS:
        return None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed))
    sampled = sorted(order[:ROWS].tolist())
    return encoded(data.task, "validation", data.tokenizer, recipe.data.max_length, sampled)
