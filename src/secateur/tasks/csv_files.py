"""Tables of cells: csv and tsv."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import islice

import pyarrow
from datasets import Dataset, DatasetInfo, Features
from pyarrow import BufferReader, Table
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

from secateur.tasks.cells import CELL
from secateur.tasks.columns import listed

log = logging.getLogger(__name__)

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""What may stand between the cells of a csv file, and how it is called."""
QUOTE = '"'
SNIFFED = 100
"""Rows that decide where the line of names contains several of them."""


def read_cells(content: bytes, separator: str | None = None, quote: str | None = QUOTE) -> Dataset:
    """The rows of a file whose first line has the names of the columns; every cell is text as it is written.

    Empty lines are no rows, nor are rows of empty cells at the end, as spreadsheets write them.

    Args:
        content: text in UTF-8, with or without a byte-order mark.
        separator: what stands between cells; by default one of `SEPARATORS`.
        quote: what may enclose a cell that contains separators or ends of lines, if anything.

    Raises:
        ValueError: the file is empty, is not in UTF-8, or has a column twice or a row of another number of cells.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    separator = separator or _separator(text)
    names = [name.strip() for name in _first_row(text, separator, quote)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"column {twice!r} occurs twice")
    features = Features(dict.fromkeys(names, CELL))
    return Dataset(_without_empty_end(_table(content, names, separator, quote)), DatasetInfo(features=features))


def _separator(text: str) -> str:
    """The separator that divides the line of names; of several, the one that divides the rows alike; else a comma.

    Raises:
        ValueError: several of them divide names and rows alike.
    """
    dividing = [one for one in SEPARATORS if len(_first_row(text, one, QUOTE)) > 1]
    alike = dividing if len(dividing) < 2 else [one for one in dividing if _divides_alike(text, one)]
    if len(alike) > 1:
        ways = " or ".join(f"{SEPARATORS[one]} ({listed(_first_row(text, one, QUOTE))})" for one in alike)
        raise ValueError(f"its columns can be told by {ways}; renaming or quoting one of them decides")
    chosen = next(iter(alike or dividing), ",")
    if chosen != ",":
        log.info("the columns of the csv file are separated by %r", chosen)
    return chosen


def _divides_alike(text: str, separator: str) -> bool:
    """Whether the first rows have as many cells as there are names."""
    try:
        rows = list(islice(_rows(text, separator, QUOTE), SNIFFED))
    except csv.Error:  # of the reader: a cell is longer than it takes
        return False
    return all(len(row) == len(rows[0]) for row in rows)


def _first_row(text: str, separator: str, quote: str | None) -> list[str]:
    return next(_rows(text, separator, quote), [])


def _rows(text: str, separator: str, quote: str | None) -> Iterator[list[str]]:
    """The rows that are not empty."""
    lines = StringIO(text, newline="")
    if quote is None:
        rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=separator, quotechar=quote)
    return filter(None, rows)


def _table(content: bytes, names: Sequence[str], separator: str, quote: str | None) -> Table:
    """The table of texts; one block and one thread, so that a message has the number of a row."""
    options = ReadOptions(block_size=min(len(content) + 1, 2**31 - 1), use_threads=False, column_names=list(names))
    parse = ParseOptions(delimiter=separator, quote_char=quote or False, newlines_in_values=bool(quote))
    convert = ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
    return read_csv(BufferReader(content), options, parse, convert).slice(1)


def _without_empty_end(table: Table) -> Table:
    """The table without the rows at its end all of whose cells are empty."""
    rows = table.num_rows
    while rows and not any(table.column(name)[rows - 1].as_py().strip() for name in table.column_names):
        rows -= 1
    return table.slice(0, rows)
