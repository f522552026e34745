"""What every command shows with: tables, lines and JSON on stdout; progress, warnings and errors on stderr.

The library that draws tables is imported when something is shown: the help of a command needs none of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 200
"""Columns of a table where stdout is not a terminal: a row that is folded is hard to search."""


@cache
def out() -> Console:
    """Stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


@cache
def err() -> Console:
    """Stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def show_json(values: Any) -> None:
    """The only output on stdout under `--json`."""
    out().print(json.dumps(values, indent=1), soft_wrap=True)


def show_title(title: str) -> None:
    """The title of a table, on one line."""
    out().print(title, style="bold", soft_wrap=True)


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table whose first column says what a row is about, and whose other columns are values."""
    from rich import box
    from rich.table import Table

    if title:
        show_title(title)
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out().print(table)


def show_text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of words, all columns of which start at the left."""
    from rich import box
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    out().print(table)


def show_lines(*lines: str) -> None:
    """Lines that are never wrapped, so that a path or a command can be copied."""
    for line in lines:
        out().print(line, soft_wrap=True)


def show_notes(notes: Iterable[str]) -> None:
    """Dimmed lines under a table: how it was measured and what its columns mean."""
    for note in notes:
        out().print(f"- {note}", style="dim", soft_wrap=True)


def show_captions(lines: Iterable[str]) -> None:
    """Dimmed lines under a table, as narrow as the terminal: what the characters in it mean."""
    for line in lines:
        out().print(line, style="dim")


def show_message(line: str) -> None:
    """A line on stderr."""
    err().print(line, soft_wrap=True)
