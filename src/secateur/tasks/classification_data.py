"""The data of classification and regression: one or two columns of text, and a column of classes or scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value

from secateur.system.errors import UserError
from secateur.tasks.cells import typed
from secateur.tasks.columns import find_column, holds_text, listed, no_column, shared_columns, usual_columns
from secateur.tasks.guesses import guessed_label, guessed_texts
from secateur.tasks.label_texts import are_lists
from secateur.tasks.labels import read_labels
from secateur.tasks.origin import Splits, origin_of

# Tried in order: pairs before single texts, because a pair may contain a column that is also a usual single text.
TEXTS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("question", "passage"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
    ("content",),
    ("review",),
    ("document",),
)
LABELS = ("label", "labels", "target", "class", "category", "sentiment", "score", "similarity")
NUMBERS = ("int", "float", "bool")
MOST_SCORE = float(np.finfo(np.float32).max)


def prepare(
    splits: DatasetDict,
    text: Sequence[str] | None,
    label: str | None,
    asked: Sequence[str] | None = None,
    scores: bool = False,
) -> Splits:
    """The splits with only the columns in use, texts first and label last, and classes by index.

    Args:
        splits: as read.
        text, label: the columns of text and of labels; by default the first of `TEXTS` and of `LABELS` that exist.
        asked: the labels in the order that the user states.
        scores: whether numbers are scores, also if they have no fractions.

    Raises:
        UserError: a column is missing, is empty, has gaps or holds neither classes nor scores.
    """
    shared, origin = shared_columns(splits), origin_of(splits)
    columns = text_columns(shared, text)
    column = find_column("label", shared, label, LABELS)
    if column in columns:
        raise UserError(f"column {column!r} is both text and label: name another by `text` or `label`")
    guesses = guessed_columns(splits["train"], shared, columns, text, column, label)
    splits = typed(splits.select_columns([*columns, column]), column, asked or ())
    for key, split in splits.items():
        check_text(origin.name(key), split, columns)
        _check_gaps(origin.name(key), split, columns, column, scores, asked or ())
    ready = labelled(splits, column, asked, scores)
    if not asked and not scores:
        guesses += _guessed_kind(column, splits["train"].features[column], ready["train"].features[column])
    return Splits(ready, replace(origin, guesses=guesses))


def guessed_columns(
    split: Dataset,
    shared: Sequence[str],
    columns: Sequence[str],
    text: Sequence[str] | None,
    column: str,
    label: str | None,
) -> tuple[str, ...]:
    """What was guessed about the columns of texts, of which the user names `text`, and the labels, `label`."""
    return (
        *guessed_texts(split, shared, columns, text, used={column, *LABELS}),
        *guessed_label("labels", shared, column, label, LABELS, used=columns),
    )


def _guessed_kind(column: str, before: Any, after: Any) -> tuple[str, ...]:
    """Whether numbers are classes or scores, unless the user says it or they can hardly be both (0 and 1).

    Args:
        column: of labels.
        before, after: its feature as read and as the task has it.
    """
    if not isinstance(after, ClassLabel):
        return (f"scores from the decimals in {column}, not classes (--labels)",)
    if _label_kind(before) == "int" and len(after.names) > 2:
        return (f"classes from the integers in {column}, not scores (--task-option scores=true)",)
    return ()


def text_columns(shared: Sequence[str], text: Sequence[str] | None) -> tuple[str, ...]:
    """The one or two columns of text: those that the user names, or the first of `TEXTS` that exist."""
    asked = (text,) if isinstance(text, str) else tuple(text or ())
    if len(asked) > 2:
        raise UserError(f"`text` names {len(asked)} columns: name one, or two for a pair of texts")
    if found := usual_columns(shared, TEXTS) if not asked else [asked] * (set(asked) <= set(shared)):
        return found[0]
    raise no_column("text", asked, shared)


def check_text(name: str, split: Dataset, columns: Sequence[str]) -> None:
    """Refuse a split with a column that holds no text, or nothing."""
    for column in columns:
        if not holds_text(split, column):
            held = _dtype(split.features[column])
            raise UserError(f"column {column!r} of the {name} split holds {held}: name one of text by `text`")
        if not any(split[column][:]):
            raise UserError(f"column {column!r} of the {name} split is empty: name another by `text`")


def _check_gaps(
    name: str, split: Dataset, columns: Sequence[str], label: str, scores: bool, asked: Sequence[str]
) -> None:
    """Refuse rows without a label, with a text that is None, or with blank texts only (one of a pair may be blank).

    Args:
        scores: whether integers are scores, which may be negative.
        asked: the labels that the user states.
    """
    texts = zip(*(split[column][:] for column in columns), strict=True)
    unlabelled = [is_missing(value, asked) and not (scores and isinstance(value, int)) for value in split[label][:]]
    if all(unlabelled):
        raise UserError(f"column {label!r} of the {name} split is empty: name another by `label`")
    gaps = [
        index
        for index, (row, no_label) in enumerate(zip(texts, unlabelled, strict=True))
        if no_label or None in row or not any(map(str.strip, row))
    ]
    if gaps:
        raise UserError(
            f"{len(gaps)} of the {len(split)} rows of the {name} split lack a text or a label "
            f"(the first is row {gaps[0]}, counted from 0; a class of -1 is no label, unless it is named as in "
            "--labels=-1,0,1 or made a score by --task-option scores=true, nor is an infinite score): fill or remove "
            "them"
        )


def is_missing(label: Any, asked: Sequence[str]) -> bool:
    """Whether a label is None, empty, not finite in float32, or negative: SNLI has -1 where annotators disagreed.

    Args:
        asked: the labels that the user states, which may be negative numbers.
    """
    if isinstance(label, float):
        return not abs(label) <= MOST_SCORE
    return label is None or label == "" or (isinstance(label, int) and label < 0 and str(label) not in asked)


def labelled(splits: DatasetDict, label: str, asked: Sequence[str] | None, scores: bool) -> DatasetDict:
    """The splits with classes by index, or with scores in float32.

    Raises:
        UserError: the splits have labels of different types, or neither classes nor scores, or it is not clear which.
    """
    features = [split.features[label] for split in splits.values()]
    kinds = {_label_kind(feature) for feature in features}
    named = [feature for feature in features if isinstance(feature, ClassLabel)]
    numeric = kinds <= {"float", "int"}
    if scores and not asked and all(map(_is_number, features)):
        return splits.cast_column(label, Value("float32"))
    if numeric and not asked and "float" in kinds and not _all_whole(splits, label):
        return splits.cast_column(label, Value("float32"))
    if scores:
        raise UserError(f"the labels in {label!r} are no numbers: leave out the task's option scores")
    if "float" in kinds and not asked:
        raise UserError(
            f"the labels in {label!r} are decimals without fractions, which may be classes or scores: name the classes "
            "by --labels (data.labels), or set the task's option scores (--task-option scores=true)"
        )
    alike = len(kinds) == 1 or kinds == {"class", "int"} or numeric
    if "other" in kinds or not alike or any(feature.names != named[0].names for feature in named):
        types = " and ".join(dict.fromkeys(map(_dtype, features)))
        if all(isinstance(feature, List | LargeList) for feature in features):
            raise _are_lists(label)
        raise UserError(f"the labels in {label!r} are {types}: make all of them strings, integers or decimals")
    if kinds == {"string"} and are_lists(splits, label):
        raise _are_lists(label)
    if named:
        splits = splits.cast_column(label, named[0])
    return read_labels(splits, label, asked).indexed(splits, label)


def _are_lists(label: str) -> UserError:
    return UserError(f"the labels in {label!r} are lists: take --task multilabel for several labels a row")


def _all_whole(splits: DatasetDict, label: str) -> bool:
    return all(float(value).is_integer() for split in splits.values() for value in split[label])


def _label_kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return "class"
    return next((kind for kind in ("int", "float", "string", "bool") if kind in _dtype(feature)), "other")


def _is_number(feature: Any) -> bool:
    """Whether a label is a number: also a truth value, or one of two classes, which is 0 or 1."""
    return len(feature.names) == 2 if isinstance(feature, ClassLabel) else _label_kind(feature) in NUMBERS


def _dtype(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return f"the classes {listed(feature.names)}"
    return feature.dtype if isinstance(feature, Value) else "lists or records"


def check_classes(splits: DatasetDict, label: str) -> None:
    """Refuse splits from which classes cannot be learned.

    Raises:
        UserError: training has a single label, or validation has a class that training lacks.
    """
    feature = splits["train"].features[label]
    train, validation = (set(splits[name][label][:]) for name in ("train", "validation"))
    if len(train) == 1:
        raise UserError(f"all training rows have the same label in {label!r}: give data with at least two")
    if isinstance(feature, ClassLabel) and validation - train:
        unseen = listed([feature.names[index] for index in sorted(validation - train)])
        raise UserError(
            f"the {origin_of(splits).rows} have labels that no training row has ({unseen}): add training rows, or "
            "remove these"
        )
