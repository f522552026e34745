"""Pages that stand alone: headings, tables, pictures and text as one HTML file that asks nothing of a network.

All that is given is text and is escaped (names of models and data are not ours), but for pictures, which must come from
`pictures.svg`. The page holds no script, and tells the browser to refuse scripts and requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from secateur.report.svg import COLOURS, DARK

NUMBER = re.compile(r"[-+]?[0-9]|-$")
"""How a cell with a number begins; or a dash, for none."""


@dataclass(frozen=True)
class Facts:
    """The few numbers that matter, in large type: (what, value, a note below it, "" for none)."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notes:
    """A list of remarks in small type: denominators, protocol."""

    kind: ClassVar[str] = "notes"
    notes: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text: `head` names the columns, and the first cell of each row is what the row is about."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def wordy(self) -> list[bool]:
        """Of each column but the first, whether it holds words: numbers stand at the right."""
        columns = zip(*(row[1:] for row in self.rows), strict=True)
        return [any(cell and not NUMBER.match(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """An SVG of `pictures.svg` and a line about it."""

    kind: ClassVar[str] = "picture"
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many as fit: one below the other on a phone."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Preformatted:
    """Text to copy as it is: a recipe, a command."""

    kind: ClassVar[str] = "preformatted"
    text: str


@dataclass(frozen=True)
class Folded:
    """Parts that a reader opens: detail that few want."""

    kind: ClassVar[str] = "folded"
    summary: str
    parts: Sequence[Part]


Part: TypeAlias = "Facts | Text | Notes | Table | Picture | Gallery | Preformatted | Folded"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in order."""

    heading: str
    parts: Sequence[Part]


def render(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """One HTML page: the title, a line below it, and the sections; light or dark as the reader's system is.

    The same arguments give the same page. Pictures on one page need different titles: their ids are made of them.
    """
    return _template().render(title=title, sections=sections, lead=lead, light=COLOURS, dark=DARK)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("secateur"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
