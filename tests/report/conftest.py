"""Tests of pages, whose pictures are real."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _every_page(drawn_pages):
    """Every page of every module has its pictures."""
