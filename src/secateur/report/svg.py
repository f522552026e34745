"""Figures as inline SVG: text remains text, and colours are variables of the page, which has a light and a dark scheme.

Sizes are CSS pixels. A picture of `WIDTH` fits a phone; a wider one is scaled down there, together with its text.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

if TYPE_CHECKING:  # matplotlib takes a third of a second to import: only functions that draw import it
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 320
"""Width in pixels that fits every screen."""

COLOURS: Mapping[str, str] = {
    "ink": "#1c2024",
    "muted": "#5f6772",
    "line": "#d9dce1",
    "track": "#eceef0",
    "page": "#fdfdfc",
    "series-1": "#23698f",
    "series-2": "#c2503a",
    "series-3": "#3b7a39",
    "series-4": "#85549a",
    "series-5": "#95690f",
    "series-6": "#566778",
}
"""Role -> its colour in the light scheme; `svg` replaces each of these colours by `var(--role, colour)`."""

DARK: Mapping[str, str] = {
    "ink": "#e8eaed",
    "muted": "#a0a8b3",
    "line": "#343b43",
    "track": "#242a31",
    "page": "#14171a",
    "series-1": "#62acd6",
    "series-2": "#ea8770",
    "series-3": "#82c17d",
    "series-4": "#c69fd6",
    "series-5": "#dcb850",
    "series-6": "#a3b3c4",
}
"""The same in the dark scheme."""

SERIES = tuple(colour for role, colour in COLOURS.items() if role.startswith("series-"))
"""Colours of lines and points, in order of use."""

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML does not allow."""
LETTER, LINE, REACH = 5.5, 13, 11
"""Of a label, in pixels: the average width of a letter, the height of a line, and the radius that reacts."""
HEX = re.compile(r"#[0-9a-f]{6}\b")
DECIMALS = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")


STYLE: Mapping[Any, object] = {
    "figure.dpi": 72,  # a point is a pixel
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,  # inches
    "font.family": "DejaVu Sans",  # matplotlib's own, to measure text with; the page sets the font that is shown
    "font.size": 11,
    "text.parse_math": False,  # a $ in a name is a $
    "text.color": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.2,
}
"""Settings of matplotlib: small text, thin lines, no frame."""


@contextmanager
def style() -> Iterator[None]:
    """Inside, matplotlib draws in `STYLE`; a figure made inside keeps it."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        yield


def figure(width: float = WIDTH, height: float = 200) -> Figure:
    """An empty figure of that many pixels; create it, and draw in it, inside `style()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))


def plain_powers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: `STYLE` does not typeset matplotlib's powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def svg(figure: Figure, title: str, description: str = "", labels: Mapping[str, Sequence[str]] | None = None) -> str:
    """A figure as an `<svg>` element for a page, with a title and a description for screen readers.

    It refers to nothing outside itself. The same figure and title return the same text. Ids are made from the title,
    which must therefore differ from that of every other picture on the page.

    Args:
        labels: gid of a marker in the figure -> lines that are shown beside it when it is pointed at, tapped or reached
            by the keyboard.
    """
    import matplotlib

    out = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has other fonts
        figure.savefig(out, format="svg", metadata=no_metadata, transparent=True)
    root = ElementTree.fromstring(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", out.getvalue()))
    _strip(root)
    prefix = f"p{hashlib.sha256(title.encode()).hexdigest()[:8]}-"
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = dict(_attribute(name, value, prefix) for name, value in element.attrib.items())
    _describe(root, title, description, prefix)
    _label(root, {prefix + identity: lines for identity, lines in (labels or {}).items()})
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: Element) -> None:
    """Remove the metadata, and the style sheet, whose rules would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)


def _attribute(name: str, value: str, prefix: str) -> tuple[str, str]:
    """An attribute with ids unique on the page, colours by role, no font of its own, and pixels with two decimals."""
    name = name.removeprefix(XLINK)
    if name == "id":
        return name, prefix + value
    if name == "href":
        return name, value.replace("#", f"#{prefix}")
    value = value.replace("url(#", f"url(#{prefix}")
    if name == "style":
        kept = (rule for rule in value.split("; ") if not rule.startswith("font-family"))
        return name, HEX.sub(lambda found: _by_role(found[0]), "; ".join(kept))
    return name, DECIMALS.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)


def _by_role(colour: str) -> str:
    """A colour as a variable of the page, with the light colour as the fallback; an unknown colour as it is."""
    role = next((role for role, value in COLOURS.items() if value == colour), None)
    return f"var(--{role}, {colour})" if role else colour


def _describe(root: Element, title: str, description: str, prefix: str) -> None:
    """Set the size in pixels, and the title and description that a screen reader reads."""
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {
        "xmlns": SVG.strip("{}"),
        "viewBox": root.attrib["viewBox"],
        "width": width,
        "height": height,
        "role": "img",
        "aria-labelledby": f"{prefix}title" + (f" {prefix}words" if description else ""),
        "font-family": "system-ui, sans-serif",
        "stroke-linejoin": "round",
    }
    for tag, identity, text in (("desc", "words", description), ("title", "title", title)):
        if text:
            element = Element(tag, {"id": prefix + identity})
            element.text = _printable(text)
            root.insert(0, element)


def _label(root: Element, labels: Mapping[str, Sequence[str]]) -> None:
    """Put labels over the markers with these ids, above everything else; the style of the page hides and shows them."""
    _, _, width, _ = map(float, root.attrib["viewBox"].split())
    if labels:
        root.attrib["role"] = "group"  # the markers of an image could not be reached
    lines: dict[tuple[float, float], list[str]] = {}
    for group in [element for element in root.iter("g") if element.get("id") in labels]:
        marker = next(group.iter("use"), None)
        if marker is not None:  # markers that lie on each other have one label, of all of them
            at = round(float(marker.attrib["x"])), round(float(marker.attrib["y"]))
            lines.setdefault(at, []).extend(map(_printable, labels[group.attrib["id"]]))
    root.extend(_point(*at, own, width) for at, own in lines.items())


def _point(x: float, y: float, lines: Sequence[str], width: float) -> Element:
    """What reacts at a marker, and its label: above it, or below it at the top of the picture, and within its sides."""
    point = Element("g", {"class": "point", "tabindex": "0", "role": "img", "aria-label": ", ".join(lines)})
    point.append(Element("circle", {"cx": f"{x:g}", "cy": f"{y:g}", "r": str(REACH)}))
    half = min(LETTER * max(map(len, lines)), width) / 2
    middle = min(max(x, half), width - half)
    first = y - REACH - 3 - LINE * (len(lines) - 1)
    first = first if first > LINE else y + REACH + LINE
    for number, line in enumerate(lines):
        place = {"x": f"{middle:.1f}", "y": f"{first + LINE * number:.1f}"}
        text = Element("text", {**place, "text-anchor": "middle", "font-size": "11"})
        text.text = line
        point.append(text)
    return point


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
