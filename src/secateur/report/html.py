"""Standalone pages: headings, tables, pictures and text as one HTML file that needs no network.

All text is escaped, since it contains names of models and data; only pictures are inserted unescaped, and must come
from `svg.svg`. Its content security policy forbids requests, and all scripts but the one that sorts tables, which is on
pages with such a table.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from secateur.report.svg import COLOURS, DARK

if TYPE_CHECKING:
    from jinja2 import Template

NUMBER = re.compile(r"[-+]?[0-9]|-$")
"""Matches the start of a cell that holds a number, or a dash for a missing one."""
SHORT = 12
"""Characters up to which a cell stays on one line."""


@dataclass(frozen=True)
class KeyNumbers:
    """The most important numbers, in large type: (name, value, a note below it or "")."""

    kind: ClassVar[str] = "key_numbers"
    numbers: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notes:
    """A list of notes in small type: denominators, protocol."""

    kind: ClassVar[str] = "notes"
    notes: Sequence[str]


@dataclass(frozen=True)
class DataTable:
    """A table of text: `head` names the columns, and the first cell of each row is the row's heading.

    One that is `sortable` is sorted by a click on the head of a column, by the numbers that cells begin with; its
    headings of rows are not broken into lines.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    sortable: bool = False

    @property
    def wordy(self) -> list[bool]:
        """Whether each column but the first holds words, which are aligned to the left; numbers are to the right."""
        return [any(cell and not NUMBER.match(cell) for cell in column) for column in self._columns]

    @property
    def short(self) -> list[bool]:
        """Whether each column but the first has short cells alone, which are not broken into lines."""
        return [max(map(len, column)) <= SHORT for column in self._columns]

    @property
    def _columns(self) -> list[tuple[str, ...]]:
        return list(zip(*(row[1:] for row in self.rows), strict=True))


@dataclass(frozen=True)
class Picture:
    """An SVG made by `svg.svg`, and its caption."""

    kind: ClassVar[str] = "picture"
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many in a row as fit the screen."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Preformatted:
    """Text whose lines are kept: a recipe, a command."""

    kind: ClassVar[str] = "preformatted"
    text: str


@dataclass(frozen=True)
class Folded:
    """Contents that are hidden until the reader opens them."""

    kind: ClassVar[str] = "folded"
    summary: str
    contents: Sequence[Content]


Content: TypeAlias = "KeyNumbers | Text | Notes | DataTable | Picture | Gallery | Preformatted | Folded"


@dataclass(frozen=True)
class Section:
    """A heading and the contents below it, in order."""

    heading: str
    contents: Sequence[Content]


def render(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """One HTML page: the title, the lead below it, and the sections, light or dark by the reader's system.

    The same arguments return the same page. Pictures on one page need different titles, from which their ids are made.
    """
    tables = (one for section in sections for one in _flat(section.contents) if isinstance(one, DataTable))
    script = _file("sort.js") if any(table.sortable for table in tables) else ""
    allowed = f"; script-src 'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else ""
    return _template().render(
        title=title, sections=sections, lead=lead, light=COLOURS, dark=DARK, script=script, allowed=allowed
    )


def _flat(contents: Sequence[Content]) -> Iterator[Content]:
    """The contents, and those that are folded in them."""
    for one in contents:
        yield one
        if isinstance(one, Folded):
            yield from _flat(one.contents)


@cache
def _file(name: str) -> str:
    return (files("secateur.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only rendering needs it

    environment = Environment(
        loader=PackageLoader("secateur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
