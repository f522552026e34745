"""The data of reranking: queries, each with a list of passages and how relevant each of them is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from secateur.system.errors import UserError
from secateur.tasks.cells import values_of
from secateur.tasks.columns import check_rows, find_column, listed, no_column, shared_columns, usual_columns
from secateur.tasks.guesses import guess, guessed_label
from secateur.tasks.origin import Splits, origin_of

QUERIES = ("query", "question", "anchor")
POSITIVES = ("positive", "positives")
PASSAGES = (*POSITIVES, "passages", "documents", "passage", "document", "context", "sentence", "answer", "text")
# Tried in order.
TEXTS = (
    *((query, passage) for passage, query in product(PASSAGES, QUERIES)),
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
NEGATIVE = re.compile(r"negatives?(_\d+)?", re.IGNORECASE)
LABELS = ("label", "labels", "score", "scores", "relevance", "similarity", "target")
DRAWN = 4
"""Passages of other queries that are drawn for each query, unless the user names another number."""

QUERY, LISTED, LABEL = "query", "passages", "labels"
SPLIT = Features({QUERY: Value("string"), LISTED: List(Value("string")), LABEL: List(Value("float32"))})
"""The columns of a prepared split: a row is a query, with a label for each passage, larger for more relevant."""

Pairs = list[tuple[str, float]]
"""Passages with their labels."""


@dataclass(frozen=True)
class Columns:
    """The columns in use.

    Attributes:
        passages: a text, or a list of texts.
        negatives: passages with the label 0 beside those of `passages`, which have 1.
        label: a number, or a list of numbers for a list of passages; None if there is none.
    """

    query: str
    passages: str
    negatives: tuple[str, ...]
    label: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, that of the query first."""
        return (self.query, self.passages, *self.negatives, *([self.label] if self.label else []))

    @property
    def labelled(self) -> bool:
        """Whether the data says which passages are relevant; otherwise a teacher alone does."""
        return self.label is not None or bool(self.negatives) or self.passages.casefold() in POSITIVES

    @property
    def drawn(self) -> bool:
        """Whether passages of other queries are needed, because every passage is one of its query."""
        return self.label is None and not self.negatives


def prepare(splits: DatasetDict, text: Sequence[str] | None, label: str | None) -> Splits:
    """The splits with the columns of `SPLIT`, one row for each query.

    Args:
        text: the columns of the query, of its passages and, if any, of passages that are not relevant; by default the
            first of `TEXTS` that exist, with the columns that match `NEGATIVE` beside positives.
        label: the column of labels; by default the first of `LABELS` that exists, unless there are negatives.

    Raises:
        UserError: a column is missing, a row is incomplete, or lists of passages have no labels.
    """
    origin, shared = origin_of(splits), shared_columns(splits)
    columns = find_columns(shared, text, label)
    read = {key: _read(origin.name(key), split, columns) for key, split in splits.items()}
    return Splits(read, replace(origin, columns=columns.names, guesses=_guesses(shared, columns, text, label)))


def find_columns(shared: Sequence[str], text: Sequence[str] | None, label: str | None) -> Columns:
    """The columns in use, of those that every split has; the other arguments are those of `prepare`.

    Raises:
        UserError: one is missing, or labels are named beside negatives.
    """
    query, passages, *negatives = _texts(shared, text)
    if not text and passages.casefold() in POSITIVES:
        negatives = [name for name in shared if NEGATIVE.fullmatch(name)]
    if label is not None and negatives:
        raise UserError(
            f"column {label!r} holds labels, and {listed(negatives)} the passages that are not relevant: name either"
        )
    usual = usual_columns(shared, [(name,) for name in LABELS])
    found = None if negatives or not (label or usual) else find_column("label", shared, label, LABELS)
    return Columns(query, passages, tuple(negatives), found)


def _texts(shared: Sequence[str], text: Sequence[str] | None) -> tuple[str, ...]:
    named = (text,) if isinstance(text, str) else tuple(text or ())
    if len(named) == 1:
        raise UserError("`text` names 1 column: name that of the query and that of its passages")
    found = usual_columns(shared, TEXTS) if not named else [named] * (set(named) <= set(shared))
    if found:
        return found[0]
    raise no_column("text", named, shared)


def _guesses(shared: Sequence[str], columns: Columns, text: Sequence[str] | None, label: str | None) -> tuple[str, ...]:
    """What was guessed about the columns of texts and of labels, of which the user names `text` and `label`."""
    taken = (columns.query, columns.passages)
    others = {name for pair in usual_columns(shared, TEXTS) for name in pair if name not in columns.names}
    of_texts = () if text else guess("queries and passages", taken, sorted(others), "--text")
    if columns.label is None:
        return of_texts
    return (*of_texts, *guessed_label("labels", shared, columns.label, label, LABELS, used=taken))


def _read(name: str, split: Dataset, columns: Columns) -> Dataset:
    """The rows of a split with the columns of `SPLIT`; rows of the same query become one, in the order of the first.

    Raises:
        UserError: a row is incomplete.
    """
    queries, passages = split[columns.query][:], [_texts_of(cell) for cell in split[columns.passages][:]]
    negatives = [_chained(cells) for cells in zip(*(split[one][:] for one in columns.negatives), strict=True)]
    negatives = negatives or [[] for _ in queries]
    labels = _labels(name, split, columns, passages)
    _check_rows(name, queries, passages, negatives, labels)
    rows: dict[str, Pairs] = {}
    for query, own, others, numbers in zip(queries, passages, negatives, labels, strict=True):
        pairs = [*zip(own, numbers, strict=True), *((passage, 0.0) for passage in others)]
        rows.setdefault(query, []).extend(pairs)
    return as_split({query: list(dict.fromkeys(pairs)) for query, pairs in rows.items()})


def as_split(rows: dict[str, Pairs]) -> Dataset:
    """A split with the columns of `SPLIT`, of the passages of each query with their labels."""
    return Dataset.from_dict(
        {
            QUERY: list(rows),
            LISTED: [[passage for passage, _ in pairs] for pairs in rows.values()],
            LABEL: [[number for _, number in pairs] for pairs in rows.values()],
        },
        features=SPLIT,
    )


def _texts_of(cell: Any) -> list[Any]:
    """The texts of a cell, which is one or a list; none for a missing one."""
    return list(cell) if isinstance(cell, list | tuple) else [] if cell is None else [cell]


def _chained(cells: Sequence[Any]) -> list[Any]:
    return [text for cell in cells for text in _texts_of(cell)]


def _labels(name: str, split: Dataset, columns: Columns, passages: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The labels of each row's passages; None for one that is no number.

    Raises:
        UserError: the labels are classes with names, or lists of passages have none.
    """
    if columns.label is None:
        if not columns.labelled and any(len(own) > 1 for own in passages):
            raise UserError(
                f"column {columns.passages!r} of the {name} split holds lists of passages without labels: name the "
                "column of a number for each passage by `label`"
            )
        return [[1.0] * len(own) for own in passages]
    feature = split.features[columns.label]
    if isinstance(feature, ClassLabel):
        raise UserError(
            f"the labels in {columns.label!r} are the classes {listed(feature.names)}: give numbers, larger for more "
            "relevant passages"
        )
    return [[_number(value) for value in _texts_of(cell)] for cell in values_of(split, columns.label)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _check_rows(
    name: str,
    queries: Sequence[Any],
    passages: Sequence[Sequence[Any]],
    negatives: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
) -> None:
    faults = {
        "have no query": [not _is_text(text) for text in queries],
        "have no passage": [not own for own in passages],
        "have a passage that is empty, or no text": [
            not all(map(_is_text, [*own, *others])) for own, others in zip(passages, negatives, strict=True)
        ],
        "have another number of labels than of passages": [
            len(own) != len(numbers) for own, numbers in zip(passages, labels, strict=True)
        ],
        "have a label that is no finite number": [None in numbers for numbers in labels],
    }
    check_rows(name, faults)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def with_drawn(split: Dataset, count: int, seed: int) -> Dataset:
    """A prepared split with passages of other queries beside those of each query, labelled 0.

    Args:
        count: passages to draw for each query, without replacement; all others if there are fewer.

    Raises:
        UserError: all passages of the split are the same.
    """
    pool = sorted({passage for own in split[LISTED] for passage in own})
    generator, rows = np.random.default_rng(seed), dict[str, Pairs]()
    for query, own, labels in zip(split[QUERY], split[LISTED], split[LABEL], strict=True):
        drawn = generator.choice(len(pool), min(len(pool), count + len(own)), replace=False)
        others = [passage for passage in (pool[number] for number in drawn) if passage not in own][:count]
        if not others:
            raise UserError(f"query {query!r} has all passages of its split, so that none can be drawn: give others")
        rows[query] = [*zip(own, labels, strict=True), *((passage, 0.0) for passage in others)]
    return as_split(rows)
