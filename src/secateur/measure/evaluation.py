"""Evaluating a model on the rows of a task: its scores, and batches of real inputs to compare models on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from secateur.deploy.runtime import Runner
from secateur.structure.encoded_rows import UNLABELLED
from secateur.structure.token_types import without_unread_types
from secateur.surgery.opening import check_vocabulary, model_folder, open_tokenizer
from secateur.system import compat, devices
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.class_scores import ClassScore
from secateur.tasks.compared_task import ComparedTask
from secateur.tasks.labelled import LabelledTask
from secateur.tasks.rows import check_length, length_of
from secateur.tasks.task import Task, examples
from secateur.training.trainer import PruningTrainer

Row = dict[str, Any]

BATCH = 32
"""Rows of a batch in an evaluation."""
MOST_TOKENS = 2048
"""Tokens of a batch at most, for a task that condenses outputs: 0.4 GB of logits over 50,000 pieces."""
GROUPS = 20
"""Groups of examples of which each is left out once for a standard error, whose own error is then about a sixth."""


class Scored(NamedTuple):
    """What a model scores on some rows.

    Attributes:
        scores: every metric of the task.
        classes: the scores of each class; none for a task without classes.
    """

    scores: dict[str, float]
    classes: list[ClassScore]


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in a random order, by a seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def encoded(
    task: Task, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int, only: Sequence[int] | None = None
) -> list[Row]:
    """A split of the task, tokenized, as rows in memory: Trainer reads them faster than a table on disk.

    `only` are the indices of the split's rows to encode, in that order; by default all. A task may make several encoded
    rows of one row.
    """
    rows: Dataset = task.splits[split]
    table: Dataset = task.encode(rows if only is None else rows.select(only), tokenizer, max_length)
    names = [name for name in table.column_names if name != "length"]
    columns = (table[name] for name in names)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def piece_rows(task: Task, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """The pieces of each example of a split, of its inputs and, if the task generates, of its target."""
    rows = encoded(task, split, tokenizer, max_length)
    names = ("input_ids", *(task.label_names if task.generates else ()))
    return [
        [number for index in group for name in names for number in rows[index][name] if number >= 0]
        for group in examples(rows)
    ]


def scores(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Every metric of the task over all encoded rows, in the dtype of the weights.

    Raises:
        UserError: a row has more tokens than the model has positions.
    """
    return scored(model, task, rows, tokenizer).scores


def scored(model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Scored:
    """As `scores`, with those of each class.

    Raises:
        UserError: as `scores`.
    """
    return _scored(task, *predicted(model, task, rows, tokenizer))


def scored_with_error(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> tuple[Scored, float | None]:
    """As `scored`, with the standard error of the main metric.

    Raises:
        UserError: as `scores`.
    """
    prediction, ordered = predicted(model, task, rows, tokenizer)
    return _scored(task, prediction, ordered), standard_error(task, prediction, ordered)


def _scored(task: Task, prediction: EvalPrediction, rows: Sequence[Row]) -> Scored:
    classes = task.class_scores(prediction, rows) if isinstance(task, LabelledTask) else []
    return Scored(task.score(prediction, rows), classes)


def scores_with_error(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, float], float | None]:
    """As `scores`, with the standard error of the main metric.

    Raises:
        UserError: as `scores`.
    """
    found, error = scored_with_error(model, task, rows, tokenizer)
    return found.scores, error


def predicted(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> tuple[EvalPrediction, list[Row]]:
    """What the task scores, and the rows in its order.

    Rows are sorted by length, the longest first: a batch takes as long as its longest text.

    Raises:
        UserError: as `scores`.
    """
    ordered = sorted((without_unread_types(row, model) for row in rows), key=lambda row: -length_of(row))
    check_rows(ordered, model)
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_eval_batch_size=rows_of_batch(task, ordered),
            use_cpu=devices.accelerator_for(model) is None,
            remove_unused_columns=False,
            label_names=list(task.label_names),
            disable_tqdm=True,
            report_to=[],
        )
        collate, generate = task.collator(tokenizer), task.generate if task.generates else None
        trainer = PruningTrainer(
            model,
            args=args,
            data_collator=collate,
            generate=generate,
            preprocess_logits_for_metrics=task.condensed,
        )
        with evaluating([model]):
            outputs: Any = trainer.predict(ordered)  # type: ignore[arg-type]  # a list serves as a Dataset
    return task.read(EvalPrediction(outputs.predictions, outputs.label_ids), tokenizer), ordered


def check_rows(rows: Sequence[Row], model: PreTrainedModel) -> None:
    """Refuse encoded rows that are too long for a model, before it runs.

    Raises:
        UserError: a row has more tokens than the model has positions.
    """
    check_length(max(map(length_of, rows), default=0), model=model)


def in_order(prediction: EvalPrediction, rows: Sequence[Row]) -> tuple[EvalPrediction, list[Row]]:
    """A prediction whose last labels are the numbers of its rows, without these labels, and its rows in its order.

    Within a training, Trainer changes the order of the rows that it evaluates.
    """
    found: Any = prediction.label_ids
    *labels, numbers = found if isinstance(found, tuple) else (found,)  # a task may have no labels
    predictions: Any = prediction.predictions
    return EvalPrediction(predictions, alone(labels)), [rows[number] for number in numbers]


def standard_error(task: Task, prediction: EvalPrediction, rows: Sequence[Row]) -> float | None:
    """The standard error of the task's main metric over the examples of some rows, by the jackknife over groups.

    The metric is computed `GROUPS` times, each time without another group of examples (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, section 11.5), so that it may be any function of the examples. For a mean over
    n examples it estimates the standard deviation over the root of n.

    Args:
        prediction: as `Task.score` takes it, in the order of `rows`.

    Returns:
        None for fewer than two examples, or where the metric is not finite without some group.
    """
    own = examples(rows)
    count = min(GROUPS, len(own))
    if count < 2:
        return None
    order = np.random.default_rng(0).permutation(len(own))
    left_out = [_without(task, prediction, rows, own, group) for group in np.array_split(order, count)]
    squares = np.square(np.array(left_out) - np.mean(left_out))
    error = float(np.sqrt((count - 1) / count * squares.sum()))
    return error if np.isfinite(error) else None


def _without(
    task: Task, prediction: EvalPrediction, rows: Sequence[Row], own: Sequence[Sequence[int]], group: np.ndarray
) -> float:
    """The main metric without a group of examples, whose rows are in `own`."""
    absent = {index for example in group for index in own[example]}
    kept = [index for index in range(len(rows)) if index not in absent]
    parts = (_taken(part, kept) for part in (prediction.predictions, prediction.label_ids))
    return task.score(EvalPrediction(*parts), [rows[index] for index in kept])[task.metric]


def _taken(values: Any, kept: Sequence[int]) -> Any:
    """The rows of an array, of a list, or of each part of a tuple; None as it is."""
    if values is None:
        return None
    if isinstance(values, tuple):
        return tuple(_taken(part, kept) for part in values)
    return values[kept] if isinstance(values, np.ndarray) else [values[index] for index in kept]


def runner_scores(
    run: Runner, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, size: int | None = None
) -> dict[str, float]:
    """As `scores`, for a model in another runtime, with `size` rows in a batch, by default as many as there.

    Scores in int8 depend on `size` if the ranges of activations are determined for each batch. A runtime does not say
    how many positions its model has: check the rows against the model that it was made from (`check_rows`).

    Raises:
        UserError: the task is scored on generated texts.
    """
    if task.generates:
        raise UserError(
            f"the task {task.name!r} is scored on generated texts, which needs PyTorch: evaluate the compact folder"
        )
    collate, size = task.collator(tokenizer), size or rows_of_batch(task, rows)
    outputs, labels = [], []
    for first in range(0, len(rows), size):
        batch = dict(collate(list(rows[first : first + size])))
        found = run({name: batch[name] for name in run.inputs if name in batch})
        labels.append(alone([batch[name].numpy() for name in task.label_names]))
        outputs.append(condensed(task, alone(found), labels[-1]))
    return task.score(EvalPrediction(joined(outputs), joined(labels)), rows)


def rows_of_batch(task: Task, rows: Sequence[Row]) -> int:
    """Rows of a batch: fewer of long rows where the outputs of a token are many, as logits over a vocabulary are."""
    return BATCH if task.condensed is None else max(1, min(BATCH, MOST_TOKENS // max(map(length_of, rows))))


def condensed(task: Task, outputs: Any, labels: Any) -> Any:
    """What the task's scores need of the outputs of a batch.

    Args:
        outputs, labels: arrays `(batch, ...)`, or tuples of several.
    """
    if task.condensed is None:
        return outputs
    given = (_on_arrays(torch.from_numpy, values) for values in (outputs, labels))
    return _on_arrays(torch.Tensor.numpy, task.condensed(*given))


def _on_arrays(function: Callable[[Any], Any], values: Any) -> Any:
    """The values of a function of an array, or of each of a tuple."""
    return tuple(map(function, values)) if isinstance(values, tuple) else function(values)


def fitted_to(
    task: Task, model: PreTrainedModel, name: str, *, asked: bool = True, own_reference: bool = False
) -> tuple[Task, PreTrainedTokenizerBase]:
    """A task with its labels as a model has them that is fine-tuned for it, and the tokenizer of the model.

    Args:
        model: which the task may give a sentence head.
        asked: whether the options of the task were given for this model.
        own_reference: whether the model itself is the reference, where the task needs one and none is named.

    Raises:
        UserError: the model has no head for the task, labels that do not fit, or no tokenizer, or one of more
            tokens than its embeddings have rows; or nothing can be scored.
    """
    if isinstance(task, ComparedTask):
        place = str(model_folder(name))
        task.adapt(model, place, asked=asked)
        task = task.with_reference(place) if own_reference else task
        task.check_scored()
    task = task.fitted(model, "model")
    if not task.is_finetuned(model):
        raise UserError(f"{name} has no head for this data: give a model that is fine-tuned for it")
    task.check_labels(model, "model")
    tokenizer = open_tokenizer(name)
    check_vocabulary(tokenizer, model, name)
    return task, tokenizer


def scores_beside_export(
    model: PreTrainedModel,
    exported: Runner | PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, Any]:
    """The scores of a model and of its export on the scored rows, with the metric, the rows, their split and batch."""
    rows = encoded(task, "validation", tokenizer, max_length)
    if isinstance(exported, Runner):
        theirs = runner_scores(exported, task, rows, tokenizer)
    else:
        theirs = scores(exported, task, rows, tokenizer)
    return {
        "source": scores(model, task, rows, tokenizer),
        "exported": theirs,
        "metric": task.metric,
        "rows": len(task.splits["validation"]),
        "split": task.origin.scored,
        "batch": rows_of_batch(task, rows),
    }


def alone(values: Sequence[Any]) -> Any:
    """Outputs or labels as Trainer passes them to a metric: the only one, a tuple of several, or None for none."""
    return tuple(values) if len(values) > 1 else next(iter(values), None)


def joined(arrays: Sequence[Any]) -> Any:
    """Arrays of batches, or tuples of them, concatenated; those of different lengths are padded as Trainer does."""
    return None if arrays[0] is None else reduce(partial(compat.concatenate, padding=UNLABELLED), arrays)


def batches(
    task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, limit: int = 64, size: int = 16
) -> list[dict[str, Tensor]]:
    """The first `limit` rows as padded inputs, `size` rows in a batch.

    Labels are left out, except for a task that generates, whose decoder needs them as inputs.
    """
    left_out = () if task.generates else task.label_names
    inputs = [{name: value for name, value in row.items() if name not in left_out} for row in rows[:limit]]
    collate = task.collator(tokenizer)
    return [dict(collate(inputs[first : first + size])) for first in range(0, len(inputs), size)]
