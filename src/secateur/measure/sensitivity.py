"""Sensitivity: the score of a model with one group at a time cut to several densities, without training.

Masks are attached to the model and nothing is trained; each score is that of the model that `cut` would return. The
units of a group that are kept are chosen by first-order importance, the sum over batches of |dL/dmask| of the task's
loss (Molchanov et al., ICLR 2017; Michel et al., NeurIPS 2019), or by any method that needs no training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.budget.space import Space
from secateur.measure.deprecated_say import accepts_say
from secateur.measure.evaluation import Row, check_rows, encoded, rows_of_batch, shuffled, standard_error
from secateur.measure.group_cuts import GroupCut, group_cuts, kept_units, layer_of, outputs_of_cuts
from secateur.measure.sensitivity_result import Reaction, Sensitivity
from secateur.measure.task_loss import mask_gradients, own_loss
from secateur.methods import METHODS
from secateur.methods.method import Calibrated, before_pruning
from secateur.structure.groups import Group
from secateur.system.errors import UserError
from secateur.tasks.rows import length_of
from secateur.tasks.task import Task, examples

log = logging.getLogger(__name__)

UNITS = ("ffn", "qk", "vo", "head", "sublayer")
DENSITIES = (0.75, 0.5, 0.25, 0.1)
ROWS = 256
GRADIENT = "gradient"
SPLITS = ("train", "validation")


@accepts_say
def sensitivity(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    units: Sequence[str] = UNITS,
    densities: Sequence[float] = DENSITIES,
    rows: int = ROWS,
    split: str = "train",
    by: str = GRADIENT,
    max_length: int = 128,
    seed: int = 0,
) -> Sensitivity:
    """Score a fine-tuned, dense model with each group alone cut to each density; the model is left unchanged.

    Args:
        model: dense, with the task's head.
        task: its loss gives the importance of units, and its metric the scores.
        tokenizer: the model's.
        units: kinds of units; each group of each kind (`3.ffn`, `3.head`, `3.attention`) is cut alone.
        densities: fractions in [0, 1] of a group's units to keep. A group of one unit is kept or removed.
        rows: number of examples to score on, and of other training examples that decide which units are kept; a
            training split with fewer than both together is halved.
        split: "train" or "validation": the split to score on. The evidence never includes a scored row.
        by: "gradient", or the name of a method that needs no training.
        max_length: tokens that a text is truncated to.
        seed: for the sampling of the rows.

    Raises:
        UserError: a number out of range, an unknown name, a gradient of a task without labels, a model that `Space`
            refuses, or a row with more tokens than it has positions.
    """
    _check(task, densities, rows, split, by)
    task = task.of_training_rows() if split == "train" else task
    started, space = time.monotonic(), Space(model, *units)
    space.table.one_stack("the sensitivity")
    scored, evidence = _sampled_rows(task, tokenizer, split, rows, max_length, seed)
    check_rows([*scored, *evidence], model)
    collate = task.collator(tokenizer)
    with own_loss(model, task):
        cuts = _cuts(model, space, [dict(collate(own)) for own in _batches(task, evidence)], by, densities)
        outputs, labels = _outputs(model, space, task, [collate(own) for own in _batches(task, scored)], cuts)
    predictions = [EvalPrediction(output, labels) for output in outputs]
    dense, *scores = [task.score(prediction, scored)[task.metric] for prediction in predictions]
    by_cut = dict(zip(cuts, scores, strict=True))
    return Sensitivity(
        metric=task.metric,
        greater_is_better=task.greater_is_better,
        dense=dense,
        standard_error=standard_error(task, predictions[0], scored),
        densities=tuple(densities),
        reactions=tuple(_reaction(space, group, densities, cuts, by_cut) for group in space.groups),
        by=by,
        rows=len(examples(scored)),
        evidence=len(examples(evidence)) if by == GRADIENT or issubclass(METHODS.get(by), Calibrated) else 0,
        split=split,
        split_name=task.origin.names[split],
        seed=seed,
        forwards=len(cuts),
        seconds=time.monotonic() - started,
    )


def _cuts(
    model: PreTrainedModel, space: Space, evidence: Sequence[Any], by: str, densities: Sequence[float]
) -> dict[tuple[str, int], GroupCut]:
    """The cuts to score; batches of evidence decide which units each keeps."""
    log.info("choosing units by %s", by)
    return group_cuts(space, _importance_by(model, space, by, evidence), densities)


def _outputs(
    model: PreTrainedModel,
    space: Space,
    task: Task,
    scored: Sequence[Any],
    cuts: Mapping[tuple[str, int], GroupCut],
) -> tuple[list[Any], Any]:
    """Outputs on batches of the scored rows, of the whole model first and then of each cut, and the rows' labels."""
    log.info("scoring %d cuts", len(cuts))
    return outputs_of_cuts(model, space, list(cuts.values()), scored, task)


def importance(model: PreTrainedModel, space: Space, batches: Sequence[Any]) -> Tensor:
    """`(N,)` first-order importance of every unit: the sum over labelled batches of |d(task's loss)/d(mask)|."""
    return sum((gradient.abs() for gradient in mask_gradients(model, space, batches)), torch.zeros_like(space.ones()))


def _check(task: Task, densities: Sequence[float], rows: int, split: str, by: str) -> None:
    """Refuse arguments out of range before any row is read."""
    if not densities or len(set(densities)) < len(densities) or not all(0.0 <= d <= 1.0 for d in densities):
        came = ", ".join(f"{density:g}" for density in densities) or "none"
        raise UserError(f"expected densities in [0, 1], each once, got {came}: fractions of a group's units to keep")
    if rows < 1:
        raise UserError(f"expected rows of at least 1, got {rows}: score some hundreds")
    if split not in SPLITS:
        raise UserError(f"expected split {' or '.join(SPLITS)}, got {split!r}: the rows to score on")
    if by != GRADIENT and by not in METHODS.all():
        raise UserError(f"expected by {GRADIENT}, or a method that needs no training, got {by!r}: see `secateur list`")
    if by == GRADIENT and not task.label_names:
        raise UserError(
            f"by {GRADIENT} needs a loss of labels, which the task {task.name!r} has not: take magnitude or obs"
        )


def _sampled_rows(
    task: Task, tokenizer: PreTrainedTokenizerBase, split: str, rows: int, max_length: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to score on, in the order of their lengths, and other rows of the training split as evidence.

    Both are sampled with the seed. Batches of rows of one length need no padding.
    """
    train = shuffled(len(task.splits["train"]), seed)
    scored, evidence = shuffled(len(task.splits[split]), seed)[:rows], train[:rows]
    if split == "train":
        count = min(rows, len(train) // 2)
        if not count:
            raise UserError(
                f"expected a training split of at least 2 rows, one to score and one as evidence, got {len(train)}: "
                "add rows"
            )
        scored, evidence = train[:count], train[count : 2 * count]
    by_length = sorted(encoded(task, split, tokenizer, max_length, scored), key=length_of)
    return by_length, encoded(task, "train", tokenizer, max_length, evidence)


def _batches(task: Task, rows: list[Row]) -> list[list[Row]]:
    size = rows_of_batch(task, rows)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _importance_by(model: PreTrainedModel, space: Space, by: str, batches: Sequence[Any]) -> Tensor:
    """`(N,)` importance of each unit, to be compared with the others of its group."""
    if by == GRADIENT:
        return importance(model, space, batches)
    method = before_pruning(METHODS.get(by), space)
    if isinstance(method, Calibrated):
        method.calibrate(batches)
    if method.listens_to or method.param_groups():
        raise UserError(
            f"{by!r} learns from gradients of a training, which a sensitivity does not do: use {GRADIENT}, or magnitude"
        )
    return method.scores()


def _reaction(
    space: Space,
    group: Group,
    densities: Sequence[float],
    cuts: Mapping[tuple[str, int], GroupCut],
    scores: Mapping[tuple[str, int], float],
) -> Reaction:
    kept = tuple(kept_units(group, density) for density in densities)
    return Reaction(
        group=group.name,
        kind=group.kind,
        layer=layer_of(group),
        size=group.size,
        kept=kept,
        scores=tuple(scores[group.name, count] for count in kept),
        saved=tuple(1.0 - space.density(cuts[group.name, count].masks) for count in kept),
    )
