"""Scores of each class by itself: of the classes of rows, of each of several labels, of kinds of entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from secateur.tasks.tag_schemes import OUTSIDE


class ClassScore(NamedTuple):
    """What is right of one class; what is undefined, such as the precision where it was never predicted, is 0.0.

    Attributes:
        name: of the class, the label or the kind of entity.
        rows: how many rows, words or entities are of this class.
    """

    name: str
    rows: int
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, Any]:
        return dict(zip(type(self).__annotations__, self, strict=True))


def of_indicators(predicted: NDArray[Any], gold: NDArray[Any], names: Sequence[str]) -> list[ClassScore]:
    """The scores of each of k classes.

    Args:
        predicted, gold: whether each row is of each class, bool `(rows, k)`.
        names: of the classes.
    """
    right, said, there = (predicted & gold).sum(0), predicted.sum(0), gold.sum(0)
    parts = (there, _over(right, said), _over(right, there), _over(2 * right, said + there))
    return [
        ClassScore(name, int(rows), float(precision), float(recall), float(f1))
        for name, rows, precision, recall, f1 in zip(names, *parts, strict=True)
    ]


def of_classes(predicted: NDArray[Any], gold: NDArray[Any], names: Sequence[str]) -> list[ClassScore]:
    """The scores of each class, where every row is of one: its index, `(rows,)`; -1 is none of them."""
    classes = np.arange(len(names))
    return of_indicators(predicted[:, None] == classes, gold[:, None] == classes, names)


def of_entities(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[ClassScore]:
    """The scores of each kind of entity that occurs, in the order of names; tags are in BIOES."""
    kinds = sorted({mark[2:] for tags in (true, predicted) for row in tags for mark in row if mark != OUTSIDE})
    if not kinds:
        return []
    precision, recall, f1, rows = precision_recall_fscore_support(
        list(true), list(predicted), average=None, zero_division=0
    )
    return [ClassScore(*one) for one in zip(kinds, map(int, rows), *map(_floats, (precision, recall, f1)), strict=True)]


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _over(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
