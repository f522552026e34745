"""Tables of cells: csv and tsv."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from io import StringIO

import pyarrow
from datasets import Dataset, DatasetInfo, Features
from pyarrow import BufferReader, Table
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

from secateur.tasks.cells import CELL

log = logging.getLogger(__name__)

SEPARATORS = ",;\t|"
"""What may stand between the cells of a csv file: the first of these that the line of names contains."""


def read_cells(content: bytes, separator: str | None = None, quote: str | None = '"') -> Dataset:
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
    """The first of `SEPARATORS` that stands between names in the first line; a comma if none does."""
    chosen = next((one for one in SEPARATORS if len(_first_row(text, one, '"')) > 1), SEPARATORS[0])
    if chosen != SEPARATORS[0]:
        log.info("the columns of the csv file are separated by %r", chosen)
    return chosen


def _first_row(text: str, separator: str, quote: str | None) -> list[str]:
    lines = StringIO(text, newline="")
    if quote is None:
        rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=separator, quotechar=quote)
    return next(filter(None, rows), [])


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
