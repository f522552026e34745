"""A task's score, and its standard error by the bootstrap (Efron, Annals of Statistics 7(1), 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from secateur.measure.evaluation import Row
from secateur.structure.encoded_rows import EXAMPLE
from secateur.tasks.task import Task, examples, of_all_examples

RESAMPLES = 200
"""Resamples for the standard error."""


def score(task: Task, outputs: Any, labels: Any, rows: Sequence[Row]) -> float:
    """The task's metric of outputs and labels `(rows, ...)`, or of tuples of such arrays."""
    return task.score(EvalPrediction(outputs, labels), rows)[task.metric]


def standard_error(task: Task, outputs: Any, labels: Any, rows: Sequence[Row], seed: int) -> float:
    """Standard deviation of the score over resamples of the examples with replacement."""
    own = examples(rows)
    samples = np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))
    scores = [_resampled_score(task, outputs, labels, rows, [own[n] for n in sample]) for sample in samples]
    return float(np.std(scores, ddof=1))


def _resampled_score(
    task: Task, outputs: Any, labels: Any, rows: Sequence[Row], sample: Sequence[Sequence[int]]
) -> float:
    """The score of a sample of examples, each given by the indices of its rows; one sampled twice counts twice."""
    shared = of_all_examples(rows)
    indices = [index for example in sample for index in example] + shared
    resampled = [{**rows[index], EXAMPLE: number} for number, example in enumerate(sample) for index in example]
    resampled += [rows[index] for index in shared]
    return score(task, _at(outputs, indices), _at(labels, indices), resampled)


def _at(values: Any, indices: Sequence[int]) -> Any:
    if values is None:
        return None
    return tuple(value[indices] for value in values) if isinstance(values, tuple) else values[indices]
