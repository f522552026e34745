"""Evaluating a model on the rows of a task: its scores, and batches of real inputs to compare models on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from secateur.deploy.runtime import Runner
from secateur.surgery.opening import check_vocabulary, open_tokenizer
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.task import UNLABELLED, Task, check_length
from secateur.training.trainer import PruningTrainer

Row = dict[str, Any]

BATCH = 32
"""Rows of a batch in an evaluation."""


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


def scores(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Every metric of the task over all encoded rows, in the dtype of the weights.

    Rows are sorted by length, the longest first: a batch takes as long as its longest text.

    Raises:
        UserError: a row has more tokens than the model has positions.
    """
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    check_length(len(ordered[0]["input_ids"]), model=model)
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_eval_batch_size=BATCH,
            use_cpu=not torch.accelerator.is_available(),
            remove_unused_columns=False,
            label_names=list(task.label_names),
            disable_tqdm=True,
            report_to=[],
        )
        collate, generate = task.collator(tokenizer), task.generate if task.generates else None
        trainer = PruningTrainer(model, args=args, data_collator=collate, generate=generate)
        with evaluating([model]):
            predicted: Any = trainer.predict(ordered)  # type: ignore[arg-type]  # a list serves as a Dataset
    return task.score(task.read(EvalPrediction(predicted.predictions, predicted.label_ids), tokenizer), ordered)


def runner_scores(
    run: Runner, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, size: int = BATCH
) -> dict[str, float]:
    """As `scores`, for a model in another runtime, with `size` rows in a batch.

    Scores in int8 depend on `size` if the ranges of activations are determined for each batch.

    Raises:
        UserError: the task is scored on generated texts.
    """
    if task.generates:
        raise UserError(
            f"the task {task.name!r} is scored on generated texts, which needs PyTorch: evaluate the compact folder"
        )
    collate = task.collator(tokenizer)
    outputs, labels = [], []
    for first in range(0, len(rows), size):
        batch = dict(collate(list(rows[first : first + size])))
        outputs.append(alone(run({name: batch[name] for name in run.inputs if name in batch})))
        labels.append(alone([batch[name].numpy() for name in task.label_names]))
    return task.score(EvalPrediction(joined(outputs), joined(labels)), rows)


def fitted_to(task: Task, model: PreTrainedModel, name: str) -> tuple[Task, PreTrainedTokenizerBase]:
    """A task with its labels as a model has them that is fine-tuned for it, and the tokenizer of the model.

    Raises:
        UserError: the model has no head for the task, labels that do not fit, or no tokenizer, or one of more
            tokens than its embeddings have rows.
    """
    task = task.fitted(model, "model")
    if not task.is_finetuned(model):
        raise UserError(f"{name} has no head for this data: give a model that is fine-tuned for it")
    task.check_labels(model, "model")
    tokenizer = open_tokenizer(name)
    check_vocabulary(tokenizer, model, name)
    return task, tokenizer


def scores_beside_export(
    model: PreTrainedModel, exported: Runner, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """The scores of a model and of its export on the validation rows, with the metric, the rows and their batch."""
    rows = encoded(task, "validation", tokenizer, max_length)
    return {
        "source": scores(model, task, rows, tokenizer),
        "exported": runner_scores(exported, task, rows, tokenizer),
        "metric": task.metric,
        "rows": len(task.splits["validation"]),
        "batch": BATCH,
    }


def alone(values: Sequence[Any]) -> Any:
    """Outputs or labels as Trainer passes them to a metric: the only one, or a tuple of several."""
    return values[0] if len(values) == 1 else tuple(values)


def joined(arrays: Sequence[Any]) -> Any:
    """Arrays of batches, or tuples of them, concatenated; those of different lengths are padded as Trainer does."""
    return reduce(partial(compat.concatenate, padding=UNLABELLED), arrays)


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
