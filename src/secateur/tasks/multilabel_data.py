"""The data of multi-label classification: one or two columns of text, and the labels of each row as a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset, DatasetDict, LargeList, List, Value

from secateur.system.errors import UserError
from secateur.tasks.cells import typed
from secateur.tasks.classification_data import LABELS, check_text, guessed_columns, text_columns
from secateur.tasks.columns import check_rows, find_column, listed, no_column, shared_columns
from secateur.tasks.label_texts import with_lists
from secateur.tasks.labels import Labels, check_asked, element_of, read_labels, text_by
from secateur.tasks.origin import Splits, origin_of

COLUMN = "labels"
"""The column of labels, where the data has a column for each."""


def prepare(splits: DatasetDict, text: Sequence[str] | None, label: str | None, asked: Sequence[str] | None) -> Splits:
    """The splits with only the columns in use, texts first, and lists of labels by index last.

    Args:
        splits: as read.
        text, label: the columns of text and of labels, several of these with commas between them.
        asked: the labels in the order that the user states.

    Raises:
        UserError: a column is missing, is empty, has gaps or holds no labels.
    """
    check_asked(asked or ())
    shared, origin = shared_columns(splits), origin_of(splits)
    columns, own = text_columns(shared, text), _label_columns(shared, label)
    if both := set(columns) & set(own):
        raise UserError(f"column {min(both)!r} is both text and label: name another by `text` or `label`")
    guesses = guessed_columns(splits["train"], shared, columns, text, own[0], label)
    splits = splits.select_columns([*columns, *own])
    if len(own) == 1:
        splits = with_lists(splits, own[0], asked or ())
    for column in own:
        splits = typed(splits, column, asked or ())
    for key, split in splits.items():
        check_text(origin.name(key), split, columns)
        _check_rows(origin.name(key), split, columns, own)
    return Splits(_by_index(splits, own, asked), replace(origin, guesses=guesses))


def _by_index(splits: DatasetDict, own: Sequence[str], asked: Sequence[str] | None) -> DatasetDict:
    """The splits with a list of labels by index in each row, in place of the columns of labels."""
    if len(own) > 1:
        return _of_columns(splits, own, asked)
    if _are_marks(splits, own[0]):
        return _of_marks(splits, own[0], asked)
    if _number_kind(splits["train"].features[own[0]]) == "float":
        raise UserError(f"the labels in {own[0]!r} are decimals: give labels, or 0 or 1 for each label")
    splits = DatasetDict({name: _listed(split, own[0]) for name, split in splits.items()})
    return read_labels(splits, own[0], asked).indexed(splits, own[0])


def _label_columns(shared: Sequence[str], label: str | None) -> list[str]:
    if label is None or label in shared or "," not in label:
        return [find_column("label", shared, label, LABELS)]
    names = [name.strip() for name in label.split(",")]
    if not set(names) <= set(shared):
        raise no_column("label", names, shared)
    if len(set(names)) < len(names):
        raise UserError(f"`label` names a column twice ({listed(names)}): name each once")
    return names


def possible_labels(label: str | None) -> tuple[str, ...]:
    """Names that the column of labels may have, or the first of several, before and after `prepare`."""
    return LABELS if label is None else (label, label.partition(",")[0].strip(), COLUMN)


def _check_rows(name: str, split: Dataset, columns: Sequence[str], own: Sequence[str]) -> None:
    texts = list(zip(*(split[column][:] for column in columns), strict=True))
    labels = list(zip(*(split[column][:] for column in own), strict=True))
    faults = {
        "lack a text": [None in row or not any(map(str.strip, row)) for row in texts],
        "lack a label (an empty list means that a row has none)": [
            any(value in (None, "") or (isinstance(value, list) and None in value) for value in row) for row in labels
        ],
    }
    check_rows(name, faults)


def _of_columns(splits: DatasetDict, own: Sequence[str], asked: Sequence[str] | None) -> DatasetDict:
    """The splits of data with a column of 0 and 1 for each label."""
    for split in splits.values():
        for column in own:
            if odd := next((value for value in split[column][:] if value not in (0, 1)), None):
                raise UserError(f"column {column!r} holds {odd!r}: several columns of labels hold 0 or 1")
    if asked and set(asked) != set(own):
        raise UserError(
            f"data.labels names {listed(asked)}, and the columns of labels are {listed(own)}: name the same"
        )
    names = list(asked or own)
    rows = {
        name: [[column for column, mark in zip(own, marks, strict=True) if mark] for marks in _rows(split, own)]
        for name, split in splits.items()
    }
    return _indexed(splits, own, rows, names, bool(asked))


def _of_marks(splits: DatasetDict, column: str, asked: Sequence[str] | None) -> DatasetDict:
    """The splits of data with lists of a 0 or 1 for each label."""
    count = len(splits["train"][column][0])
    if asked and len(asked) != count:
        raise UserError(f"data.labels names {len(asked)} labels, and the lists in {column!r} hold {count}: name each")
    names = list(asked or (f"LABEL_{index}" for index in range(count)))
    rows = {
        name: [[label for label, mark in zip(names, row, strict=True) if mark] for row in split[column][:]]
        for name, split in splits.items()
    }
    return _indexed(splits, [column], rows, names, bool(asked))


def _indexed(
    splits: DatasetDict, old: Sequence[str], rows: dict[str, list[list[str]]], names: Sequence[str], asked: bool
) -> DatasetDict:
    """The splits with lists of names in place of the old columns, by index."""
    column, feature = old[0] if len(old) == 1 else COLUMN, List(Value("string"))
    replaced = {}
    for name, split in splits.items():
        replaced[name] = split.remove_columns(list(old)).add_column(column, rows[name], feature=feature)
    index = {name: number for number, name in enumerate(names)}
    return Labels(tuple(names), "asked" if asked else "data", index).indexed(DatasetDict(replaced), column)


def _are_marks(splits: DatasetDict, column: str) -> bool:
    """Whether all lists have one length, of at least 2, and hold only 0 and 1."""
    kind = _number_kind(splits["train"].features[column])
    if kind is None or not _is_list(splits["train"].features[column]):
        return False
    rows = [row for split in splits.values() for row in split[column][:]]
    return len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all(v in (0, 1) for row in rows for v in row)


def _listed(split: Dataset, column: str) -> Dataset:
    """The split with a list of labels in each row, as text unless they are integers or classes already."""
    feature = split.features[column]
    if _is_list(feature):
        return split
    write: Callable[[Any], str] = text_by(feature)
    values = [[write(value)] for value in split[column][:]]
    return split.remove_columns(column).add_column(column, values, feature=List(Value("string")))


def _is_list(feature: Any) -> bool:
    return isinstance(feature, List | LargeList)


def _number_kind(feature: Any) -> str | None:
    dtype = str(getattr(element_of(feature), "dtype", ""))
    return next((kind for kind in ("int", "float", "bool") if kind in dtype), None)


def _rows(split: Dataset, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(split[column][:] for column in columns), strict=True))


def check_label_sets(splits: DatasetDict, column: str, names: Sequence[str]) -> None:
    """Refuse splits from which labels cannot be learned.

    Raises:
        UserError: there is a single label, all training rows have the same ones, or validation has one that no training
            row has.
    """
    if len(names) < 2 or len({frozenset(row) for row in splits["train"][column]}) == 1:
        raise UserError(f"the labels in {column!r} are all the same: give data with at least two")
    train, validation = ({label for row in splits[name][column] for label in row} for name in ("train", "validation"))
    if validation - train:
        unseen = listed([names[index] for index in sorted(validation - train)])
        raise UserError(
            f"the {origin_of(splits).rows} have labels that no training row has ({unseen}): add training rows, or "
            "remove these"
        )
