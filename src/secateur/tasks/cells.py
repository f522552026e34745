"""Cells of csv and tsv files: text, whose type is decided by what a column is used for.

A file of cells does not say whether "007" is a number or a code, or "NA" a missing value or a class. So a column of
texts stays as it is written, and a column of labels or of numbers is read by `typed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from datasets import Dataset, DatasetDict, Value

from secateur.system.errors import UserError

CELL = Value("string", id="cell")
"""The feature of a column of cells."""
NUMBERS = (Value("int64"), Value("float64"))
TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
MISSING = frozenset(("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "None"))
"""Cells in which programs write that a number is missing; among labels that are no numbers, they are labels."""
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def is_cell(split: Dataset, column: str) -> bool:
    """Whether a column holds cells."""
    return bool(split.features[column] == CELL)


def typed(splits: DatasetDict, column: str, names: Collection[str] = ()) -> DatasetDict:
    """The splits with a column of cells as what all its cells are: integers, decimals, truth values, or text.

    Numbers with leading zeros are codes, which are text. A number may be missing (`MISSING`), and is None then. White
    space around a cell is left out. A column that holds no cells stays as it is.

    Args:
        splits: which all have the column.
        column: of labels or of numbers.
        names: texts that are labels, if the user has named them: if all cells are among them, they stay text.

    Raises:
        UserError: the cells are numbers with a decimal comma.
    """
    of_cells = [name for name, split in splits.items() if is_cell(split, column)]
    distinct = {text.strip() for name in of_cells for text in splits[name].unique(column)}
    feature, read = _type(distinct, column, names)
    return DatasetDict(
        {name: _read(split, column, feature, read) if name in of_cells else split for name, split in splits.items()}
    )


def are_numbers(split: Dataset, column: str) -> bool:
    """Whether a column holds cells that are numbers."""
    return is_cell(split, column) and typed(DatasetDict(split=split), column)["split"].features[column] in NUMBERS


def values_of(split: Dataset, column: str) -> list[Any]:
    """The values of a column of one split, as `typed` reads them if they are cells."""
    return list(typed(DatasetDict(split=split), column)["split"][column][:])


def _type(distinct: Collection[str], column: str, names: Collection[str] = ()) -> tuple[Value, Callable[[str], Any]]:
    """The type of these cells, and what reads one."""
    present = [text for text in distinct if text not in MISSING]
    if not present or set(distinct) <= set(names):
        return Value("string"), str
    if all(map(WHOLE.fullmatch, present)):
        return Value("int64"), int
    if all(map(DECIMAL.fullmatch, present)):
        return Value("float64"), float
    if set(distinct) - {""} <= TRUTH.keys():
        return Value("bool"), TRUTH.__getitem__
    if all(map(DECIMAL_COMMA.fullmatch, present)):
        raise UserError(
            f"column {column!r} holds numbers with a decimal comma, such as {min(present)!r}: write them with a point, "
            "or name them by --labels (data.labels) if they are classes"
        )
    return Value("string"), str


def _read(split: Dataset, column: str, feature: Value, read: Callable[[str], Any]) -> Dataset:
    cells = [text.strip() for text in split[column][:]]
    values = cells if read is str else [None if text in MISSING else read(text) for text in cells]
    return split.remove_columns(column).add_column(column, values, feature=feature)  # type: ignore[call-arg]
