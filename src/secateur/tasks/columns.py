"""Columns and rows of the data of a task: finding the columns, and refusing incomplete rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, Value

from secateur.system.errors import UserError

MOST_CLASSES = 100_000  # a column with more distinct values probably holds row numbers, identifiers or texts


def shared_columns(splits: DatasetDict) -> list[str]:
    """The columns that every split has, in the order of the training split."""
    return [
        name for name in splits["train"].column_names if all(name in split.column_names for split in splits.values())
    ]


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
    for name in [asked] if asked else usual:
        if name in shared:
            return name
    raise no_column(option, [asked] if asked else [], shared)


def no_column(option: str, asked: Sequence[str], shared: Sequence[str]) -> UserError:
    """The error for columns that `option` names, or that have a usual name, and that do not exist."""
    missing = next((f"column {name!r}" for name in asked if name not in shared), f"{option} under a usual name")
    return UserError(f"the data has no {missing}: give one of {listed(shared, 20) or 'none'} by `{option}`")


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
