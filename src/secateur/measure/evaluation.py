"""A model on a task's rows: its scores, and batches of real inputs to compare models on."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from secateur.deploy.runtime import Runner
from secateur.surgery.opening import open_tokenizer
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.tasks.task import UNLABELLED, Task
from secateur.training.trainer import PruningTrainer

Row = dict[str, Any]

BATCH = 32
"""Rows of a batch when a model is scored."""


def encoded(
    task: Task, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int, only: Sequence[int] | None = None
) -> list[Row]:
    """A split of the task, tokenized, as rows in memory: Trainer reads them faster than a table on disk.

    `only` are the numbers of the split's rows to take, in that order; by default all. A task may make several of one.
    """
    rows: Dataset = task.splits[split]
    table: Dataset = task.encode(rows if only is None else rows.select(only), tokenizer, max_length)
    names = [name for name in table.column_names if name != "length"]
    columns = (table[name] for name in names)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def scores(
    model: PreTrainedModel, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Every metric of the task on encoded rows, all that was in them counted, in the weights' own precision.

    The longest rows come first: a batch takes as long as its longest text.
    """
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    with TemporaryDirectory() as nowhere:
        args = TrainingArguments(
            nowhere,
            per_device_eval_batch_size=BATCH,
            use_cpu=not torch.accelerator.is_available(),
            remove_unused_columns=False,
            label_names=list(task.label_names),
            disable_tqdm=True,
            report_to=[],
        )
        collate, generate = task.collator(tokenizer), task.generate if task.generates else None
        trainer = PruningTrainer(model, args=args, data_collator=collate, generate=generate)
        found: Any = trainer.predict(ordered)  # type: ignore[arg-type]  # a list serves as a Dataset
    return task.score(task.read(EvalPrediction(found.predictions, found.label_ids), tokenizer), ordered)


def runner_scores(
    run: Runner, task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, size: int = BATCH
) -> dict[str, float]:
    """As `scores`, of a model in another runtime, `size` rows to a batch.

    Scores of int8 whose ranges come from each batch depend on `size`.

    Raises:
        UserError: the task is scored on what a model writes.
    """
    if task.generates:
        raise UserError(f"the task {task.name!r} is scored on what a model writes: that is done in PyTorch alone")
    collate = task.collator(tokenizer)
    said: Any = None
    wanted: Any = None
    for first in range(0, len(rows), size):
        batch = dict(collate(list(rows[first : first + size])))
        answers = run({name: batch[name] for name in run.inputs if name in batch})
        answer = alone(answers)
        said = answer if first == 0 else compat.concatenate(said, answer, UNLABELLED)
        labels = alone([batch[name].numpy() for name in task.label_names])
        wanted = labels if first == 0 else compat.concatenate(wanted, labels, UNLABELLED)
    return task.score(EvalPrediction(said, wanted), rows)


def fitting_tokenizer(task: Task, model: PreTrainedModel, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is fine-tuned for a task.

    Raises:
        UserError: the model has no head for the task, other labels, or no tokenizer.
    """
    if not task.is_finetuned(model):
        raise UserError(f"{name} has no head for this data: give a model that is fine-tuned for it")
    task.check_labels(model, "model")
    return open_tokenizer(name)


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
    """Outputs or labels as Trainer gives them to a metric: the only one, or a tuple of all."""
    return values[0] if len(values) == 1 else tuple(values)


def batches(
    task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, limit: int = 64, size: int = 16
) -> list[dict[str, Tensor]]:
    """The first `limit` rows as padded inputs without labels, `size` to a batch.

    With them where the task generates: they are what a decoder reads.
    """
    left_out = () if task.generates else task.label_names
    inputs = [{name: value for name, value in row.items() if name not in left_out} for row in rows[:limit]]
    collate = task.collator(tokenizer)
    return [dict(collate(inputs[first : first + size])) for first in range(0, len(inputs), size)]
