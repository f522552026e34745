"""Files of rows: parquet, csv, tsv, jsonl, json and lines of text, each also compressed by gzip."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from pyarrow import ArrowException, BufferReader, Table, parquet

from secateur.system.errors import UserError, as_user_error
from secateur.tasks.csv_files import read_cells

log = logging.getLogger(__name__)

FORMS = (
    "parquet, csv, tsv, jsonl, json or txt (one text a line), also compressed as .gz, or parallel lines in two files "
    "such as train.en and train.de"
)
"""What can be read, for messages."""
GZIP = ".gz"


def form(path: Path) -> str:
    """The suffix that names the form of a file, in lower case: ".csv" of a.csv and of a.csv.gz."""
    return uncompressed(path).suffix.lower()


def uncompressed(path: Path) -> Path:
    """The path without the suffix of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() == GZIP else path


def read_files(paths: Sequence[Path]) -> Dataset:
    """The rows of one split, which may be in several files of one form.

    Raises:
        UserError: the files are of different forms, or of one that is not known, or cannot be read.
    """
    if len({(form(path), path.suffix) for path in paths}) > 1:
        raise _twice(paths)
    pieces = []
    for path in paths:
        if form(path) not in READERS:
            raise UserError(f"data {str(path)!r} is of no form that can be read: give {FORMS}")
        with reading(path):
            pieces.append(READERS[form(path)](path))
    with reading(paths[0].parent):
        return concatenate_datasets(pieces)


def read_parallel(paths: Mapping[str, Sequence[Path]]) -> Dataset:
    """The rows of one split whose columns are files of parallel lines.

    Args:
        paths: the name of a column -> its file, and no other.

    Raises:
        UserError: a column has two files, a file cannot be read, or the files have different numbers of lines.
    """
    columns = {}
    for name, files in paths.items():
        if len(files) > 1:
            raise _twice(files)
        with reading(files[0]):
            columns[name] = _lines(files[0])
    if len({len(lines) for lines in columns.values()}) > 1:
        counts = ", ".join(f"{paths[name][0]} has {len(lines):,} lines" for name, lines in columns.items())
        raise UserError(f"{counts}: give parallel files, in which line n of each is the same text")
    return Dataset.from_dict(columns)


def _twice(paths: Sequence[Path]) -> UserError:
    return UserError(f"{' and '.join(map(str, paths))} are the same split twice: keep one of them")


def reading(data: str | Path) -> AbstractContextManager[None]:
    """A context in which any exception becomes a `UserError` about this data."""
    return as_user_error(f"data {str(data)!r} cannot be read", "give a readable file, folder or hub name")


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix.lower() == GZIP else data


def _dataset(table: Table) -> Dataset:
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"column {twice!r} occurs twice")
    return Dataset(table)


def _read_parquet(path: Path) -> Dataset:
    return _dataset(parquet.read_table(BufferReader(_content(path))))


def _read_csv(path: Path) -> Dataset:
    return read_cells(_content(path))


def _read_tsv(path: Path) -> Dataset:
    """As a csv file, but quotation marks are text."""
    return read_cells(_content(path), "\t", None)


def _read_json(path: Path) -> Dataset:
    """The rows: a list of objects, by itself or under the key "data", or one object per line."""
    content = _parsed(path)
    if not isinstance(content, list):
        inner = content.get("data") if isinstance(content, dict) else None
        content = inner if isinstance(inner, list) else [content]
    if not all(isinstance(row, dict) for row in content):
        raise ValueError("its rows are not objects")
    names = dict.fromkeys(name for row in content for name in row)
    return _of_columns({name: [row.get(name) for row in content] for name in names}, path)


def _of_columns(columns: Mapping[str, list[Any]], path: Path) -> Dataset:
    """The rows of columns; objects that are not of one type are no column, and are left out, which is said.

    BEIR's corpora have such objects under the name metadata, which nobody reads.
    """
    try:
        return Dataset.from_dict(columns)
    except ArrowException:
        odd = [name for name, values in columns.items() if _holds_objects(values) and not _has_one_type(values)]
        if not odd:
            raise
    for name in odd:
        log.warning("the column %r of %s is left out: its objects hold values of several types", name, path)
    return Dataset.from_dict({name: values for name, values in columns.items() if name not in odd})


def _holds_objects(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, dict) for value in values)


def _has_one_type(values: list[Any]) -> bool:
    try:
        Dataset.from_dict({"column": values})
    except ArrowException:
        return False
    return True


def _read_lines(path: Path) -> Dataset:
    return Dataset.from_dict({"text": _lines(path)})


def _lines(path: Path) -> list[str]:
    """The lines of a text; only a line feed ends one, as for the tools that write parallel files."""
    lines = [line.removesuffix("\r") for line in _text(path).split("\n")]
    return lines if lines[-1] else lines[:-1]


def _text(path: Path) -> str:
    return _content(path).decode("utf-8-sig")  # some editors put a byte-order mark before it


def _parsed(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if form(path) != ".jsonl" and error.msg != "Extra data":  # its first line is incomplete
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
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".txt": _read_lines,
}
"""Form of a file (see `form`) -> the function that reads it."""
