"""Files of the project outside of code and docs: they parse, and agree with the package."""

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import typer
import yaml

from secateur.cli import app
from secateur.system.packages import EXTRAS
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


def test_the_oldest_allowed_versions_are_those_that_are_tested():
    script = (ROOT / ".ci" / "compat").read_text(encoding="utf-8")
    rows = re.search(r"\$\{COMPAT:-([^}]+)\}", script)[1].split()
    oldest = [min(tuple(map(int, row.split(":")[part].split("."))) for row in rows) for part in range(3)]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    floors = [r'requires-python = ">=([\d.]+)"', r'"torch>=([\d.]+)"', r'"transformers>=([\d.]+),<6"']
    allowed = [tuple(map(int, re.search(floor, project)[1].split("."))) for floor in floors]
    assert [version[: len(floor)] for version, floor in zip(oldest, allowed, strict=True)] == allowed


def test_the_extras_are_read_without_a_newer_python():
    """By `make docs` and `make release`, as of 3.10, which cannot read TOML."""
    extra = partial(subprocess.run, capture_output=True, text=True, check=True)
    names = extra([ROOT / "tools" / "extra"]).stdout.split()
    assert [name for name in names if name not in ("dev", "docs", "release")] == list(EXTRAS)
    found = {name: extra([ROOT / "tools" / "extra", name]).stdout.split() for name in names}
    assert {name: tuple(found[name]) for name in EXTRAS} == EXTRAS
    assert {line.partition("==")[0] for line in found["release"]} == {"build", "twine"}
    assert {"mkdocs", "mike", "ruff"} < {line.partition("==")[0] for line in found["docs"]}
    callers = [(ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "tools/release")]
    assert all("tools/extra" in text and "tomllib" not in text for text in callers)


def test_the_source_package_has_all_that_is_tracked():
    """Its tests read the benchmarks, the scripts of CI and the citation too."""
    include = re.search(
        r"build\.targets\.sdist\]\ninclude = \[(.+?)\n\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.S
    )
    listed = {pattern.strip("/") for pattern in re.findall(r'"([^"]+)"', include[1])}
    always = {".gitignore", "LICENSE", "pyproject.toml"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    left = {path.partition("/")[0] for path in tracked} - listed - always
    assert {path for path in left if not path.endswith(".md")} == set() and "*.md" in listed


def test_the_request_to_merge_links_to_the_rules():
    template = ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md"
    links = re.findall(r"\]\(([^)]+)\)", template.read_text(encoding="utf-8"))
    assert links and all((template.parent / link).is_file() for link in links)
