"""The site: its navigation, its reference and its links, without building it; `make docs` does."""

import json
import posixpath
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import site_pages  # noqa: E402 - a hook of mkdocs, which is found by its path

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def in_navigation(entry):
    """The pages of an entry of the navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    return [page for inner in (entry if isinstance(entry, list) else entry.values()) for page in in_navigation(inner)]


def documented():
    """The names on the pages of the reference."""
    texts = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    return [name for text in texts for name in re.findall(r"^::: secateur\.([\w.]+)$", text, re.MULTILINE)]


def test_the_navigation_has_every_page_once():
    assert sorted(in_navigation(CONFIG["nav"])) == sorted(
        [*PAGES, *site_pages.root_pages().values(), *site_pages.notebook_pages().values()]
    )


def test_the_reference_has_every_public_name_once():
    surface = set(json.loads((ROOT / "tests" / "public_surface.json").read_text(encoding="utf-8")))
    registries = {"architectures", "methods", "runtimes", "tasks", "terms"}
    public = [name for name in documented() if "." not in name]
    assert sorted(public) == sorted(surface - registries - {"__version__"})
    extending = (DOCS / "reference" / "extending.md").read_text(encoding="utf-8")
    assert registries == set(re.findall(r"^\| `secateur\.(\w+)\.register", extending, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in documented() if "." in name])
def test_other_names_of_the_reference_are_defined_where_it_says(name):
    module, _, attribute = name.rpartition(".")
    path = ROOT / "src" / "secateur" / f"{module.replace('.', '/')}.py"
    assert re.search(rf"^(def|class) {attribute}\b", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_examples_in_docstrings_are_sections():
    """`Example:` would be a note, and what it shows a quotation."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"^ *Example:$", path.read_text(encoding="utf-8"), re.MULTILINE), (
            f"{path}: write Examples:"
        )


def test_every_link_leads_to_a_page_of_the_site():
    pages = site_pages.generated()
    known = {*PAGES, *pages, *(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.*"))}
    texts = {page: text for page, text in pages.items() if page.startswith("project/")}
    for page, path in PAGES.items():
        folder = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page)))
        texts[page] = site_pages.rewritten(path.read_text(encoding="utf-8"), folder, page)
    for page, text in texts.items():
        for link, _ in site_pages.LINK.findall(site_pages.FENCE.sub("", text)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            assert ":" in link or target in known, f"{page} links to {link}"


def test_links_out_of_the_docs_lead_to_pages_that_show_files_whole():
    text = "[a](../LICENSE) [b](../README.md#limits) [c](concepts.md#density) [d](https://x.y/LICENSE)\n"
    block = "```text\n[a](../LICENSE)\n```\n"
    assert site_pages.rewritten(text + block, "docs", "index.md") == (
        "[a](source/LICENSE.md) [b](project/readme.md#limits) [c](concepts.md#density) [d](https://x.y/LICENSE)\n"
        + block
    )
    assert site_pages.rewritten("[e](docs/fast.md)", "", "project/readme.md") == "[e](../fast.md)"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8").rstrip()
    assert site_pages.notebook("examples/embeddings.ipynb").count("```python\n") == 5
    assert f"~~~~~~~~text\n{licence}\n~~~~~~~~" in site_pages.shown("LICENSE")
