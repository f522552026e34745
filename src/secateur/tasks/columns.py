"""Columns and rows of the data of a task: finding the columns, and refusing incomplete rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, Value

from secateur.system.errors import UserError
from secateur.tasks.origin import origin_of

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
MOST_CLASSES = 100_000  # a column with more distinct values probably holds row numbers, identifiers or texts


def shared_columns(splits: DatasetDict) -> list[str]:
    """The columns that every split has, in the order of the training split.

    Raises:
        UserError: the splits have no column in common.
    """
    names = splits["train"].column_names
    shared = [name for name in names if all(name in split.column_names for split in splits.values())]
    if not shared:
        origin = origin_of(splits)
        own = " and ".join(f"{origin.name(key)} has {listed(split.column_names)}" for key, split in splits.items())
        raise UserError(f"the splits have no column in common ({own}): give all of them the same names of columns")
    return shared


def with_fields(split: Dataset) -> Dataset:
    """The split with a column for each field of a record, such as data.text; a list of records stays one column."""
    if not any(isinstance(feature, dict) for feature in split.features.values()):
        return split
    return split.with_format(None).flatten()  # the columns of a format would hide the new ones


def usual_columns(columns: Sequence[str], usual: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The columns of each usual group all of which exist; "Label" counts as "label" unless both exist."""
    by_name = {column.casefold(): column for column in reversed(columns)} | {column: column for column in columns}
    return [tuple(by_name[name] for name in group) for group in usual if set(group) <= by_name.keys()]


def find_column(option: str, shared: Sequence[str], asked: str | None, usual: Sequence[str]) -> str:
    """The column that the user names by `option` ("text", "label"), or else the first usual one.

    Args:
        option: what the user calls it, for the message.
        shared: the columns that every split has.
        asked: the column that the user names, if any.
        usual: names to look for otherwise, in order.

    Raises:
        UserError: there is no such column.
    """
    if asked is None and (found := usual_columns(shared, [(name,) for name in usual])):
        return found[0][0]
    if asked is None or asked not in shared:
        raise no_column(option, [] if asked is None else [asked], shared)
    return asked


def no_column(option: str, asked: Sequence[str], shared: Sequence[str]) -> UserError:
    """The error for columns that `option` names, or that have a usual name, and that do not exist."""
    missing = next((f"column {name!r}" for name in asked if name not in shared), f"{option} under a usual name")
    choice = f"{listed(shared, 20)} by `{option}`"
    if any(map(_is_cell, shared)):
        choice += ", or write the names of the columns before the first row"
    return UserError(f"the data has no {missing}: give one of {choice}")


def _is_cell(name: str) -> bool:
    """Whether a name is rather a cell of the first row: a number, or a text of several words."""
    return bool(NUMBER.fullmatch(name)) or len(name.split()) > 2


def holds_text(split: Dataset, column: str) -> bool:
    """Whether a column holds strings, or nothing."""
    return is_text(split.features[column])


def is_text(feature: Any) -> bool:
    """Whether a feature of `datasets` is of strings, or of nothing."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "null")


def check_rows(name: str, faults: Mapping[str, Sequence[bool]]) -> None:
    """Refuse rows with a fault.

    Args:
        name: of the split.
        faults: a fault, worded as in "3 rows have no words" -> whether each row has it.

    Raises:
        UserError: a row has a fault; the message has the number of such rows, and the first.
    """
    for fault, faulty in faults.items():
        if any(faulty):
            raise UserError(
                f"{sum(faulty)} of the {len(faulty)} rows of the {name} split {fault} "
                f"(the first is row {list(faulty).index(True)}, counted from 0): fix or remove them"
            )


def check_count(classes: int, label: str) -> None:
    """Refuse a column that probably holds no labels, before a name is created for each.

    Raises:
        UserError: more than `MOST_CLASSES`.
    """
    if classes > MOST_CLASSES:
        raise UserError(
            f"the labels in {label!r} make {classes:,} classes, of which at most {MOST_CLASSES:,} are expected: "
            "number them from 0, or name another column by `label`"
        )


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first `most` names, separated by commas, and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(task: Any) -> str:
    """What a task is when it is printed: its rows, its metric and its labels."""
    rows = ", ".join(f"{len(split):,} {name}" for name, split in task.splits.items())
    labels = f", labels {listed(task.labels)}" if task.labels else ""
    return f"{type(task).__name__}({rows} rows, {task.metric}{labels})"
