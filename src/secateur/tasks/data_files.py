"""Files of rows: parquet, csv, tsv, jsonl and json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from pyarrow import Table, csv, parquet, types

from secateur.system.errors import UserError, as_user_error


def read_files(paths: Sequence[Path]) -> Dataset:
    """The rows of one split, which may be in several files of one form.

    Raises:
        UserError: the files are of different forms, or cannot be read.
    """
    if len({path.suffix for path in paths}) > 1:
        raise UserError(f"{' and '.join(map(str, paths))} are the same split twice: keep one of them")
    pieces = []
    for path in paths:
        with reading(path):
            pieces.append(READERS[path.suffix.lower()](path))
    with reading(paths[0].parent):
        return concatenate_datasets(pieces)


def reading(data: str | Path) -> AbstractContextManager[None]:
    """A context in which any exception becomes a `UserError` about this data."""
    return as_user_error(f"data {str(data)!r} cannot be read", "give a readable file, folder or hub name")


def _dataset(table: Table) -> Dataset:
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"column {twice!r} occurs twice")
    return Dataset(table)


def _read_parquet(path: Path) -> Dataset:
    return _dataset(parquet.read_table(path))


def _read_csv(path: Path, separator: str = ",", quote: str | bool = '"') -> Dataset:
    """The table, read in one block so that the type of a column depends on all its cells; "NA" is a text."""
    whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
    form = csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote))
    table = csv.read_csv(path, read_options=whole, parse_options=form)
    if odd := next((field.name for field in table.schema if types.is_binary(field.type)), None):
        raise ValueError(f"column {odd!r} is not text in UTF-8")
    return _dataset(table)


def _read_json(path: Path) -> Dataset:
    """The rows: a list of objects, by itself or under the key "data", or one object per line."""
    content = _parsed(path)
    if not isinstance(content, list):
        inner = content.get("data") if isinstance(content, dict) else None
        content = inner if isinstance(inner, list) else [content]
    if not all(isinstance(row, dict) for row in content):
        raise ValueError("its rows are not objects")
    columns = dict.fromkeys(name for row in content for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in content] for name in columns})


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark before it
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if path.suffix.lower() != ".jsonl" and error.msg != "Extra data":  # its first line is incomplete
            raise
        lines = enumerate(text.split("\n"), start=1)
        return [_row(line, number) for number, line in lines if line.strip()]


def _row(line: str, number: int) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except ValueError as error:
        raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ: of equal keys the parser would silently keep the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"column {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return row


READERS: dict[str, Callable[[Path], Dataset]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, separator="\t", quote=False),
    ".jsonl": _read_json,
    ".json": _read_json,
}
"""Suffix of a file, in lower case -> the function that reads it."""
