"""Pages: all text is escaped, tables and headings are marked up as such, and nothing is requested from a network."""

import hashlib
import re
from base64 import b64encode

import pytest
from page_reader import Reader

from secateur.report.html import (
    DataTable,
    Folded,
    Gallery,
    KeyNumbers,
    Notes,
    Picture,
    Preformatted,
    Section,
    Text,
    render,
)

ODD = '<img src="http://x/y"> & {{ 3 * 3 }} {% raw %}'
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg"><rect width="1" height="1"/></svg>'
PARTS = {
    "key_numbers": KeyNumbers([(ODD, ODD, ODD), ("density", "5%", "")]),
    "text": Text(ODD),
    "notes": Notes([ODD, "two"]),
    "table": DataTable(ODD, ("", ODD), [(ODD, ODD), ("b", "2")]),
    "picture": Picture(SQUARE, ODD),
    "gallery": Gallery([Picture(SQUARE, ODD), Picture(SQUARE)]),
    "folded": Folded(ODD, [Text(ODD), DataTable("inner", ("x", "y"), [("1", "2")])]),
    "preformatted": Preformatted(f"{ODD}\n  indented"),
}


def page_of(*parts, **more):
    return render("a title", [Section("one", parts)], **more)


@pytest.mark.parametrize("kind", PARTS)
def test_text_is_escaped(kind):
    page = Reader(page_of(PARTS[kind]))
    assert ODD in page.text
    assert not page.named("img")


def test_titles_headings_and_leads_are_escaped():
    page = Reader(render(ODD, [Section(ODD, [])], ODD))
    assert page.text.count(ODD) == 4  # the tab, the title, the lead, the heading
    assert not page.named("img")


def test_a_page_has_one_title_and_a_heading_for_each_section():
    page = Reader(render("t", [Section("one", [Text("x")]), Section("two", [])]))
    assert (len(page.named("h1")), len(page.named("h2")), len(page.named("section"))) == (1, 2, 2)
    assert page.named("html") == [{"lang": "en"}]


def test_a_table_has_a_caption_and_headings_of_rows_and_columns():
    page = Reader(page_of(DataTable("all of it", ("", "teacher"), [("a", "1"), ("b", "2")])))
    assert len(page.named("caption")) == 1 and "all of it" in page.text
    assert [head["scope"] for head in page.named("th")] == ["col", "row", "row"]
    assert len(page.named("td")) == 3  # the corner, which is no heading, and two numbers


def test_words_are_aligned_to_the_left_and_numbers_to_the_right():
    rows = [("a", "1.5x", "-", "", "torch 2", "3"), ("b", "-0.2", "+7%", "4", "2.1", "none of these")]
    assert DataTable("t", "uvwxyz", rows).wordy == [False, False, False, True, True]
    heads = [head.get("class") for head in Reader(page_of(DataTable("t", "uvwxyz", rows))).named("th")[:6]]
    assert heads == [None, None, None, None, "short words", "words"], "short ones are not broken into lines"
    assert "words" not in page_of(DataTable("t", "uv", [])).partition("<body>")[2]


def test_a_wide_table_can_be_scrolled_by_keyboard():
    (region,) = [a for a in Reader(page_of(PARTS["table"])).named("div") if a.get("class") == "scroll"]
    assert region == {"class": "scroll", "role": "region", "aria-label": ODD, "tabindex": "0"}


def test_a_picture_is_inserted_unescaped():
    assert SQUARE in page_of(Picture(SQUARE, "a square"))
    assert "<figcaption>" not in page_of(Picture(SQUARE))


def test_preformatted_text_keeps_its_lines():
    assert ">a\n  b</pre>" in page_of(Preformatted("a\n  b"))


def test_nothing_is_requested_from_a_network():
    text = render("t", [Section("s", list(PARTS.values()))])
    page = Reader(text)
    assert not [a for _, a in page.elements for name in a if name in ("src", "href", "action", "data", "srcset")]
    assert not page.named("script", "link", "iframe", "object") and "@import" not in text and "url(" not in text
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_same_parts_return_the_same_page():
    assert page_of(*PARTS.values()) == page_of(*PARTS.values())


def test_a_page_has_a_light_and_a_dark_scheme():
    text = page_of()
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    assert "--page: #fdfdfc" in light and "--page: #14171a" in dark


SORTABLE = DataTable("all", ("model", "score"), [("a b", "0.9"), ("c", "0.8")], sortable=True)


@pytest.mark.parametrize("part", [SORTABLE, Folded("more", [SORTABLE])])
def test_the_script_that_sorts_tables_is_the_only_one_that_the_policy_allows(part):
    page = page_of(part)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (policy,) = [a["content"] for a in Reader(page).named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert [a.get("class") for a in Reader(page).named("table")] == ["sortable"]
