"""Files of the project outside of code and docs: they parse, and agree with the package."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from secateur.cli import app
from secateur.system.version import VERSION

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (VERSION, "Apache-2.0")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_a_form_of_an_issue_has_what_a_code_host_needs_and_asks_for_commands_that_exist(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"] and form["body"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    commands = re.findall(r"`secateur (\w+)", path.read_text(encoding="utf-8"))
    assert set(commands) <= set(typer.main.get_command(app.app).commands)


def test_the_request_to_merge_links_to_the_rules():
    template = ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md"
    links = re.findall(r"\]\(([^)]+)\)", template.read_text(encoding="utf-8"))
    assert links and all((template.parent / link).is_file() for link in links)
