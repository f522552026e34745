"""SVG pictures: they refer to nothing outside, use the colours of the page, and have a title and a description."""

import re
from xml.etree import ElementTree

import pytest

from secateur.report import svg as pictures
from secateur.report.svg import COLOURS, DARK, SERIES, figure, style, svg

SVG = "{http://www.w3.org/2000/svg}"
ODD = "<script>&\"' $x$ \x00 形 café"


def plot(label="a line", colour=SERIES[0]):
    with style():
        made = figure(200, 120)
        axes = made.subplots()
        axes.plot([0, 1], [0, 2], color=colour, marker="o", label=label)
        axes.fill_between([0, 1], [0, 1], color=SERIES[1])
        axes.set_title(label)
        axes.set_xlim(0, 0.5)  # so that something is clipped
    return made


def ids(text):
    return set(re.findall(r'\bid="([^"]+)"', text))


def test_a_picture_is_one_svg_of_its_size_in_pixels():
    root = ElementTree.fromstring(svg(plot(), "title"))
    assert root.tag == f"{SVG}svg"
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("200", "120", "0 0 200 120")


def test_it_refers_to_nothing_but_itself():
    text = svg(plot(), "title")
    targets = re.findall(r'href="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert targets and {target.removeprefix("#") for target in targets} <= ids(text)
    assert text.count("http") == 1  # the namespace
    assert "<style" not in text and "<metadata" not in text and "<!--" not in text


def test_its_title_and_description_are_its_label():
    root = ElementTree.fromstring(svg(plot(), ODD, "more <words>"))
    named = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    label = [named[identity] for identity in root.get("aria-labelledby").split()]
    assert root.get("role") == "img"
    assert label == [ODD.replace("\x00", "\N{REPLACEMENT CHARACTER}"), "more <words>"]
    assert "aria-labelledby" in svg(plot(), "alone") and "<desc" not in svg(plot(), "alone")


def test_text_stays_text_whatever_is_in_it():
    root = ElementTree.fromstring(svg(plot(ODD), "title"))
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert ODD.replace("\x00", "\N{REPLACEMENT CHARACTER}") in texts
    assert "font-family" not in "".join(element.get("style", "") for element in root.iter())


def test_every_colour_is_a_variable_of_the_page():
    text = svg(plot(), "title")
    bare = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", text)
    assert not re.findall(r"#[0-9a-f]{6}\b", bare)
    assert {f"var(--{role}, {COLOURS[role]})" in text for role in ("series-1", "series-2", "line", "muted")} == {True}
    assert "#ff0000" in svg(plot(colour="#ff0000"), "title"), "a colour without a role is unchanged"


def test_pictures_are_reproducible_and_ids_differ_by_title():
    assert svg(plot(), "one") == svg(plot(), "one")
    assert ids(svg(plot(), "one")) and not ids(svg(plot(), "one")) & ids(svg(plot(), "two"))


def luminance(colour):
    """Relative luminance of sRGB, WCAG 2.2."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [COLOURS, DARK], ids=["light", "dark"])
def test_contrast_is_enough_to_read(colours):
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for what must be seen in a picture (1.4.11)."""
    for role in ("ink", "muted"):
        assert contrast(colours[role], colours["page"]) >= 4.5
    assert contrast(colours["ink"], colours["track"]) >= 4.5
    for role in (role for role in colours if role.startswith("series-")):
        assert contrast(colours[role], colours["page"]) >= 4.5, role
        assert contrast(colours[role], colours["track"]) >= 3, role


def test_light_and_dark_have_the_same_roles_and_no_colour_has_two():
    assert list(COLOURS) == list(DARK)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_style_ends_with_its_block():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with pictures.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before
