"""Hook of mkdocs: pages of the site that are not in `docs`, and links that hold both on the site and in the repository.

In the repository a page links to any file by its relative path, as code hosts expect. On the site the Markdown files at
the root are pages below `project/`, notebooks below `notebooks/`, and every other file that a page links to is shown
whole on a page below `source/`.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".md": "markdown"}
RULER = "~" * 8
"""Fence of a shown file, which may itself have fences of backticks."""


def root_pages() -> dict[str, str]:
    """Page of the site for each Markdown file at the root of the repository, such as `project/readme.md`."""
    return {path.name: f"project/{path.stem.lower()}.md" for path in sorted(ROOT.glob("*.md"))}


def notebook_pages() -> dict[str, str]:
    """Page of the site for each notebook, such as `notebooks/embeddings.md`: path in the repository -> page."""
    paths = sorted((ROOT / "examples").glob("*.ipynb"))
    return {path.relative_to(ROOT).as_posix(): f"notebooks/{path.stem}.md" for path in paths}


def page_of(target: str) -> str | None:
    """The page that shows this file or folder of the repository, within `docs`; None if there is no such file."""
    if not (ROOT / target).exists():
        return None
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return (root_pages() | notebook_pages()).get(target, f"source/{target}.md")


def outside(text: str, folder: str) -> dict[str, str]:
    """The links of a page in this folder of the repository that `docs` does not resolve: link -> page of the site."""
    found = {}
    for link, _ in LINK.findall(FENCE.sub("", text)):
        target = posixpath.normpath(posixpath.join(folder, link))
        within = folder == "docs" or folder.startswith("docs/")
        if ":" in link or (within and target.startswith("docs/")):
            continue
        if (page := page_of(target)) is not None:
            found[link] = page
    return found


def rewritten(text: str, folder: str, page: str) -> str:
    """The text with such links made relative to the page of the site that shows it; blocks of code are left alone."""
    pages = outside(text, folder)

    def link(found: re.Match[str]) -> str:
        if found[1] not in pages:
            return found[0]
        return posixpath.relpath(pages[found[1]], posixpath.dirname(page) or ".") + (found[2] or "")

    parts = re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def shown(target: str) -> str:
    """A page that shows a file whole, or lists a folder."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(inner.name + "/" * inner.is_dir() for inner in path.iterdir() if inner.name != "__pycache__")
        body, language = "\n".join(names), "text"
    else:
        body, language = path.read_text(encoding="utf-8").rstrip(), LANGUAGES.get(path.suffix, "text")
    return (
        f"---\nsearch: {{exclude: true}}\nhide: [navigation]\n---\n\n# {target}\n\n{RULER}{language}\n{body}\n{RULER}\n"
    )


def notebook(target: str) -> str:
    """A notebook as a page: its text, and its code in blocks."""
    cells = json.loads((ROOT / target).read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts) + "\n"


def generated() -> dict[str, str]:
    """Pages that are not in `docs`: page -> its text."""
    pages = {}
    texts = {path: path.read_text(encoding="utf-8") for path in (*DOCS.rglob("*.md"), *ROOT.glob("*.md"))}
    for path, text in texts.items():
        folder = path.parent.relative_to(ROOT).as_posix()
        for page in outside(text, "" if folder == "." else folder).values():
            if page.startswith("source/"):
                pages[page] = shown(page.removeprefix("source/").removesuffix(".md"))
    pages |= {page: notebook(target) for target, page in notebook_pages().items()}
    return pages | {page: rewritten(texts[ROOT / name], "", page) for name, page in root_pages().items()}


# What mkdocs calls


def on_config(config: Any) -> Any:
    """Anchors as code hosts make them from headings, and a menu of versions where mike builds one of several."""
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in `docs`."""
    from mkdocs.structure.files import File, InclusionLevel

    for page, text in generated().items():
        file = File.generated(config, page, content=text)
        if page.startswith("source/"):
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page of `docs`."""
    uri = page.file.src_uri
    if uri.split("/")[0] in ("project", "notebooks", "source"):
        return markdown
    return rewritten(markdown, posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri))), uri)
