"""Several labels of a row in one text, as csv files have them: `['a', 'b']`, `a|b`, `a;b` or `a,b`."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Collection
from typing import Any

from datasets import Dataset, DatasetDict, List, Value

from secateur.system.errors import UserError
from secateur.tasks.cells import WHOLE
from secateur.tasks.columns import is_text

log = logging.getLogger(__name__)

ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+)"""
LIST = re.compile(rf"\[\s*(?:{ITEM}(?:\s*,\s*{ITEM})*\s*,?)?\s*\]", re.DOTALL)
"""A list as Python and JSON write it, of texts or integers. NumPy writes no commas, which Python would read as one."""
SEPARATORS = "|;,"
"""What may stand between labels, in the order in which it is tried."""


def with_lists(splits: DatasetDict, column: str, names: Collection[str]) -> DatasetDict:
    """The splits with a column of texts as lists of labels; as it is if each text is one label, or is no text.

    An empty text is a missing list. Labels are integers if all are.

    Args:
        splits: which all have the column.
        column: of labels.
        names: the labels, if the user has named them.

    Raises:
        UserError: a text in brackets is no list, or it is not clear whether a separator stands between labels.
    """
    if not all(is_text(split.features[column]) for split in splits.values()):
        return splits
    texts = _texts(splits, column)
    lists = {text: own for text in texts if (own := _list_of(text)) is not None}
    single = texts - lists.keys()
    if odd := next((text for text in sorted(single) if text.startswith("[") and text.endswith("]")), None):
        raise UserError(f"column {column!r} holds {odd!r}, which is no list of labels: write ['a', 'b'] or a|b")
    separator = _separator(single, column, names)
    if not lists and separator is None:
        return splits
    log.info("the labels in %r are %s", column, f"separated by {separator!r}" if separator else "written as lists")
    read = {text: _pieces(text, separator) for text in single}
    return _replaced(splits, column, read | {text: [str(one) for one in own] for text, own in lists.items()})


def _list_of(text: str) -> list[Any] | None:
    """The list that a text writes; None if it writes none, or one of codes such as 007, or of a broken escape."""
    try:
        return list(ast.literal_eval(text)) if LIST.fullmatch(text) else None
    except (SyntaxError, ValueError):
        return None


def are_lists(splits: DatasetDict, column: str) -> bool:
    """Whether all texts in a column are lists of labels."""
    return all(map(LIST.fullmatch, _texts(splits, column)))


def _texts(splits: DatasetDict, column: str) -> set[str]:
    """The distinct texts in a column that are not empty, without white space around them."""
    return {text.strip() for split in splits.values() for text in split.unique(column) if text and text.strip()}


def _separator(texts: set[str], column: str, names: Collection[str]) -> str | None:
    """What stands between the labels in these texts; None if each is one label.

    Names decide, which may be those of integers. Without them, a bar separates labels, but a comma or a semicolon may
    be part of one: it separates labels where these are no more than the texts that they form.
    """
    present = [one for one in SEPARATORS if any(one in text for text in texts)]
    if names:
        numbers = {str(number) for number in range(len(names))}
        fitting = [one for one in present if (pieces := _all_pieces(texts, one)) <= set(names) or pieces <= numbers]
        return None if texts <= set(names) or not fitting else fitting[0]
    if not present or present[0] == "|" or len(_all_pieces(texts, present[0])) <= len(texts):
        return present[0] if present else None
    raise UserError(
        f"the labels in {column!r} contain {present[0]!r}, which may separate labels or be part of one: write those of "
        "a row as ['a', 'b'] or a|b, or name all labels by --labels (data.labels)"
    )


def _all_pieces(texts: Collection[str], separator: str) -> set[str]:
    return {piece for text in texts for piece in _pieces(text, separator)}


def _pieces(text: str, separator: str | None) -> list[str]:
    return [piece.strip() for piece in text.split(separator) if piece.strip()] if separator else [text]


def _replaced(splits: DatasetDict, column: str, read: dict[str, list[str]]) -> DatasetDict:
    """The splits with lists of labels in place of texts, as the last column."""
    whole = all(WHOLE.fullmatch(label) for labels in read.values() for label in labels)
    lists: dict[str, list[Any]] = {text: [int(one) for one in own] if whole else own for text, own in read.items()}
    feature = List(Value("int64" if whole else "string"))

    def replaced(split: Dataset) -> Dataset:
        values = [lists.get((text or "").strip()) for text in split[column][:]]
        return split.remove_columns(column).add_column(column, values, feature=feature)  # type: ignore[call-arg]

    return DatasetDict({name: replaced(split) for name, split in splits.items()})
