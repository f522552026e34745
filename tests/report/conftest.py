"""Tests of pages, whose pictures are real."""

import pytest

from secateur.report import svg

DRAW = svg.svg


@pytest.fixture(scope="module", autouse=True)
def _drawn_pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "svg", DRAW)
        yield
