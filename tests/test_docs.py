"""README and docs are true: every block runs, every link leads somewhere, every table says what the code says."""

import ast
import gc
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from functools import cache
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path

import docs_world
import pytest
import transformers
import typer
import yaml
from docs_world import EMBEDDERS, NAMES, ROOT, RUNS, SERVERS, smaller
from typer.testing import CliRunner

from secateur.cli import app
from secateur.cli.option_words import in_options
from secateur.methods import METHODS
from secateur.report.recipe_keys import FLAT
from secateur.report.verdict import NOTHING_TO_KEEP
from secateur.run import recipe
from secateur.structure.architecture import Architecture, Attention, Embedding, Linear, Norm, Patches, Stack
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.groups import UNITS
from secateur.system.errors import UserError
from secateur.tasks import TASKS

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
LINKED = [*PAGES, ROOT / "RESULTS.md", ROOT / "CHANGELOG.md"]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SMALL_NAMES = {
    "classification": {"MODEL": "bert-base-uncased", "DATA": "reviews.csv", "DENSITY": 0.5, "STEPS": 4},
    "embeddings": {"MODEL": "sentence-minilm", "DATA": "texts.txt", "DENSITY": 0.5, "STEPS": 4},
}
"""Notebook -> the names of its first cell, of the folder in which it runs here."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKED_ELSEWHERE = ("js", "pbtxt")
"""Blocks for other programs: `deploy/test_hub_layout.py` compares their names with exported files."""
COMMAND = typer.main.get_command(app.app)
VERBS = COMMAND.commands


def read(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@cache
def prose(path):
    """A page without its blocks."""
    return FENCE.sub("", read(path))


def inline(path):
    return re.findall(r"`([^`\n]+)`", prose(path))


def rows(text):
    """The cells of every table's rows, heads and rules left out; a bar within a cell is written `\\|`."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number for number, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    kept = [line for number, line in enumerate(lines) if not {number, number + 1} & heads]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def section(path, heading):
    """The text under a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^#{{1,6}} |\Z)", read(path), re.MULTILINE | re.DOTALL)
    assert found, f"{name_of(path)} has no section {heading!r}"
    return found[2]


# Blocks


@dataclass(frozen=True)
class Block:
    where: str
    language: str
    text: str


def blocks(path):
    text = read(path)
    return [
        Block(f"{name_of(path)}, line {text[: found.start()].count(chr(10)) + 1}", found[1], found[2])
        for found in FENCE.finditer(text)
    ]


class Page:
    """Runs the blocks of a page, one after the other, in the present folder.

    A block of yaml or json whose first line is a comment that names a file is written there, for later blocks.
    """

    def __init__(self):
        self.names = {"__name__": __name__, **NAMES}
        self.given = {*RUNS, *EMBEDDERS}  # finished runs that the page has not made itself

    def run(self, block):
        known = {"python": self._python, "bash": self._bash, "yaml": self._yaml, "json": self._json, "py": self._served}
        known |= dict.fromkeys(("text", *CHECKED_ELSEWHERE))
        assert block.language in known, f"{block.where}: a block in {block.language or 'no language'!r}"
        if (run := known[block.language]) is not None:
            run(smaller(block.text), block.where)

    def _python(self, text, where):
        exec(compile(text, where, "exec"), self.names)

    def _served(self, text, where):
        """Of an environment without secateur; only its syntax is checked where that was not made."""
        compile(text, where, "exec")
        if SERVERS.is_file():
            done = subprocess.run([SERVERS, "-I", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, f"{where}\n{done.stderr[-2000:]}"

    def _yaml(self, text, where):
        values = yaml.safe_load(text)
        assert isinstance(values, dict), f"{where} holds no recipe"
        own = {key: value for key, value in values.items() if key != recipe.SWEEP}  # which its command checks
        recipe.make({"model": "m", "data": "d"} | own, where)
        if named := re.match(r"# ([\w./-]+\.yaml)\n", text):
            Path(named[1]).write_text(text, encoding="utf-8")

    def _json(self, text, where):
        json.loads(text)

    def _bash(self, text, where):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "secateur":
                self._secateur(words[1:], f"{where}: {line}")
            elif words:
                exists(words, f"{where}: {line}")

    def _secateur(self, words, where):
        given = [value for word, value in pairwise(words) if word in ("--output", "-o") and value in self.given]
        for value in given:
            shutil.move(value, f"{value}.given")
        result = CliRunner().invoke(app.app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(where) from result.exception
        assert result.exit_code == 0, f"{where}\n{result.output[-2000:]}"
        for value in given:
            if not Path(value).exists():  # as after a dry run
                shutil.move(f"{value}.given", value)
            else:
                self.given.remove(value)


def exists(words, where):
    """What is not secateur is not run: its targets, tools, packages and files must be there."""
    words = [word for word in words if "=" not in word.partition("/")[0]]  # variables in front
    makefile, project = read(ROOT / "Makefile"), read(ROOT / "pyproject.toml")
    tool, arguments = words[0], [word for word in words[1:] if not word.startswith("-")]
    if tool == "make":
        assert set(arguments) <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE)), where
    elif tool == "pip":
        extras = {
            extra for word in arguments for found in re.findall(r"\[([\w,]+)\]", word) for extra in found.split(",")
        }
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras), where
        assert all(word.partition("[")[0] in makefile + project for word in arguments[1:]), where
    elif tool in ("cp", "python") or tool.startswith(".venv/bin/"):
        files = arguments[:1] if tool == "cp" else [word for word in arguments if "/" in word]
        assert all((ROOT / word).exists() for word in files), where
        assert tool in ("cp", "python", ".venv/bin/python") or tool.removeprefix(".venv/bin/") in project, where
    else:
        pytest.fail(f"{where}: this command is neither run nor known; mark the block as text")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    for package in ("onnx", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        docs_world.still(patch)
        docs_world.build(folder)
    return folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """The world anew, as the present folder; what a page registers is forgotten after it."""
    shutil.copytree(world, tmp_path / "place")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers adds the folder of modules
    for registry in (METHODS, TASKS, ARCHITECTURES):
        monkeypatch.setattr(registry, "_items", registry.all())  # a copy
    docs_world.still(monkeypatch)
    monkeypatch.chdir(tmp_path / "place")
    gc.freeze()  # what the pages before it have imported
    return tmp_path / "place"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_runs(path, place):
    page = Page()
    for block in blocks(path):
        page.run(block)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_every_notebook_runs(path, place):
    """Its first cell names the model, the data and the amounts; the others run over tiny ones."""
    cells = json.loads(read(path))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {"__name__": __name__}
    exec(compile(code[0], name_of(path), "exec"), names)
    assert Path(names["MODEL"], "config.json").is_file() and names["DATA"] == "bbc"
    names |= SMALL_NAMES[path.stem]
    for number, text in enumerate(code[1:], 1):
        exec(compile(text, f"{name_of(path)}, cell {number}", "exec"), names)
    assert names["report"].density["prunable"] <= names["DENSITY"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code"), "clear what it has printed"


@pytest.mark.parametrize(
    ("language", "text", "error", "words"),
    [
        ("", "secateur list\n", AssertionError, "here: a block in 'no language'"),
        ("console", "$ secateur list\n", AssertionError, "here: a block in 'console'"),
        ("bash", "secateur prone m\n", AssertionError, "(?s)here: secateur prone m.*No such command 'prone'"),
        ("bash", "secateur list --jsn\n", AssertionError, "(?s)here: secateur list --jsn.*No such option"),
        (
            "bash",
            "secateur inspect some-other-model\n",
            AssertionError,
            "(?s)here: .*model 'some-other-model' cannot be loaded",
        ),
        ("bash", "make everything\n", AssertionError, "here: make everything"),
        ("bash", "pip install 'secateur[abacus]'\n", AssertionError, r"here: pip install 'secateur\[abacus\]'"),
        ("bash", "python examples/nothing.py\n", AssertionError, "here: python examples/nothing.py"),
        ("bash", "rm -r runs\n", pytest.fail.Exception, "here: rm -r runs: this command is neither run nor known"),
        ("python", "import secateur\nsecateur.lod('x')\n", AttributeError, "lod"),
        ("py", "import fastembed as\n", SyntaxError, "invalid syntax|Expected"),
        ("yaml", "densty: 0.1\n", UserError, "densty"),
        ("json", "{'a': 1}\n", json.JSONDecodeError, "Expecting property name"),
    ],
)
def test_a_failing_block_is_found(language, text, error, words, place):
    with pytest.raises(error, match=words):
        Page().run(Block("here", language, text))


def test_all_blocks_are_found():
    for path in PAGES:
        fences = [line for line in read(path).splitlines() if line.lstrip().startswith("```")]
        assert len(fences) == 2 * len(blocks(path)), f"{name_of(path)} has an indented or unfinished block"


# Words and links


def test_every_command_and_option_in_the_docs_exists():
    flags = {
        verb: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        for verb, command in VERBS.items()
    }
    general = {flag for option in COMMAND.params for flag in option.opts}
    every = set().union(*flags.values(), general, {"--help"})
    for path in PAGES:
        for text in inline(path):
            words = text.split()
            if words[0] == "secateur" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in VERBS, f"{name_of(path)}: {text}"
                named = {word for word in words if word.startswith("--")}
                assert named <= flags[words[1]] | {"--help"}, f"{name_of(path)}: {text}"
            elif words[0].startswith("--"):
                assert words[0].partition("=")[0] in every, f"{name_of(path)}: {text}"


def test_every_command_is_documented():
    said = " ".join(text for path in PAGES for text in (read(path),))
    assert [verb for verb in VERBS if not re.search(rf"secateur {verb}\b", said)] == []
    assert all("--json" in {flag for option in command.params for flag in option.opts} for command in VERBS.values())


def anchors(path):
    """What a code host makes of the headings."""
    slugs = []
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        slugs.append(f"{slug}-{count}" if (count := slugs.count(slug)) else slug)
    return slugs


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_every_link_has_a_target(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists() and there.is_relative_to(ROOT), f"{name_of(path)} links to {link}"
        assert not anchor or anchor in anchors(there), f"{name_of(path)} links to {link}"


def test_every_page_is_reached_from_the_index():
    linked = {
        (DOCS / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", read(DOCS / "index.md"))
    }
    assert set(DOCS.rglob("*.md")) - {DOCS / "index.md"} <= linked
    assert "docs/index.md" in read(ROOT / "README.md")


def test_contributing_fits_a_screen():
    lines = read(ROOT / "CONTRIBUTING.md").splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120


# Tables that repeat code


def shown(value):
    """A value as recipes and tables write it."""
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def default_of(field):
    return "" if field.is_required() else "{}" if field.default_factory else shown(field.default)


def test_every_key_of_a_recipe_is_documented_in_order_with_its_default_and_meaning():
    documented = rows(read(DOCS / "recipes.md").partition("\n## Every key\n")[2].partition("\n## ")[0])
    wanted = [[f"`{name}`", f"`{default_of(field)}`".strip("`")] for name, field in recipe.KEYS.items()]
    assert [[key, default.strip("`")] for key, default, _ in documented] == wanted
    for key, _, meaning in documented:
        described = recipe.KEYS[key.strip("`")].description
        assert meaning and meaning.startswith(described or ""), f"{key}: {described}"


def test_every_key_that_a_page_names_is_one_of_a_recipe():
    groups = {key.partition(".")[0] for key in recipe.KEYS if "." in key}
    named = re.compile(rf"({'|'.join(groups)})\.[a-z0-9_]+")
    wrong = {
        (path.name, found[0])
        for path in PAGES
        for words in inline(path)
        if (found := named.match(words)) and found[0] not in recipe.KEYS
    }
    assert not wrong


def recipes_in(language, text):
    """The recipes that a block writes down: of YAML, or in the calls that take one."""
    if language == "yaml":
        return [yaml.safe_load(text)]
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)] if language == "python" else []
    taking = [call for call in calls if getattr(call.func, "attr", "") in ("make", "make_group", "prune", "read")]
    given = [value for call in taking for value in (*call.args, *(word.value for word in call.keywords))]
    dicts = [value for value in given if isinstance(value, ast.Dict)]
    return [{key.value: None for key in one.keys if isinstance(key, ast.Constant)} for one in dicts]


def test_no_page_has_a_recipe_with_keys_of_an_earlier_version():
    cells = [cell for path in NOTEBOOKS for cell in json.loads(read(path))["cells"] if cell["cell_type"] == "code"]
    written = [(block.language, block.text) for path in PAGES for block in blocks(path)]
    written += [("python", "".join(cell["source"])) for cell in cells]
    found = [made for language, text in written for made in recipes_in(language, text)]
    assert {"model", "target.density"} <= {key for made in found for key in made}
    assert not {key for made in found for key in made} & FLAT.keys()


def test_every_recipe_file_is_documented():
    files = {path.name for path in (ROOT / "recipes").glob("*.yaml")}
    assert {
        row[0].strip("`").removeprefix("recipes/") for row in rows(section(DOCS / "recipes.md", "The files"))
    } == files


@pytest.mark.parametrize("name", METHODS.all())
def test_every_method_has_a_page_with_its_arguments(name):
    path = DOCS / "methods" / f"{name}.md"
    dials = [[cell.strip("`") for cell in row[:2]] for row in rows(section(path, "Dials"))]
    parameters = signature(METHODS.get(name).__init__).parameters.values()
    assert dials == [[p.name, shown(p.default)] for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    defaults = {key: value for key, value, *_ in rows(section(path, "In a recipe"))}
    assert defaults == {f"`{key}`": f"`{shown(value)}`" for key, value in METHODS.get(name).defaults.items()}


@pytest.mark.parametrize("name", METHODS.all())
def test_numbers_on_the_pages_of_methods_are_in_the_results(name):
    lines = set(read(ROOT / "RESULTS.md").splitlines())
    numbers_text = section(DOCS / "methods" / f"{name}.md", "Our numbers")
    numbers = [line for line in numbers_text.splitlines() if line.startswith("|") and set(line) - set("|- ")]
    assert numbers and [line for line in numbers if line not in lines] == []


MEASURED = [
    ROOT / "README.md",
    *(
        DOCS / f"{name}.md"
        for name in ("choose", "cost", "embeddings", "fast", "faq", "storage", "vocabulary", "when-not")
    ),
]


@pytest.mark.parametrize("path", MEASURED, ids=name_of)
def test_numbers_on_the_pages_for_deciding_are_in_the_results(path):
    """Scores, percentages, speed-ups and decimals; `inline code` and blocks are commands, whose numbers are choices."""
    text = re.sub(r"`[^`\n]+`|\]\([^)]+\)|arXiv [\d.]+|PyTorch [\d.]+", "", prose(path))
    numbers = re.findall(
        r"(?<![\w.,-])(?:\d+(?:,\d{3})*(?:\.\d+)?(?:%|x(?= as)|x\b)|\d+\.\d+|\d+,\d{3})(?![\w,])", text
    )
    known, allowed = read(ROOT / "RESULTS.md"), {"3.10", "97%", "95%", "20x", "2x"}
    assert [
        number
        for number in numbers
        if number not in allowed and not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", known)
    ] == []


@pytest.mark.parametrize("name", METHODS.all())
def test_the_paper_of_a_method_is_among_the_citations(name):
    cited = " ".join(section(ROOT / "README.md", "Citations").split())
    head = " ".join(read(DOCS / "methods" / f"{name}.md").partition("\n## ")[0].split())
    assert all(title in cited for title in re.findall(r"(?<![*\w])\*([^*]+)\*(?!\*)", head))


def test_all_units_tasks_and_architectures_are_documented():
    assert [row[0].strip("`") for row in rows(section(DOCS / "concepts.md", "Units and groups"))] == list(UNITS)
    assert set(re.findall(r"^## `(\w+)`", read(DOCS / "tasks.md"), re.MULTILINE)) == set(TASKS.all())
    assert set(ARCHITECTURES.all()) <= {row[0].strip("`") for row in rows(read(DOCS / "add-an-architecture.md"))}
    assert f"supported are {', '.join(ARCHITECTURES.all())};" in read(DOCS / "troubleshooting.md")


OF_BINDING = {Linear: {"tied", "part", "parts"}, Attention: {"kind", "layer"}, Patches: {"behind", "rows", "whole"}}
"""What binding or `in_turn` sets, and what an image has not."""


@pytest.mark.parametrize("word", [Linear, Norm, Embedding, Patches, Attention, Stack, Architecture])
def test_the_words_of_an_architecture_are_documented_with_all_their_arguments(word):
    calls = [row[0] for row in rows(section(DOCS / "add-an-architecture.md", "Reference"))]
    (call,) = (call for call in calls if call.startswith(f"`{word.__name__}("))
    arguments = re.findall(r"\w+", call.partition("(")[2])
    assert arguments == [one.name for one in fields(word) if one.name not in OF_BINDING.get(word, ())]


def test_the_methods_that_prune_in_rounds_are_named():
    names = [f"`{name}`" for name, method in sorted(METHODS.all().items()) if method.in_rounds]
    assert f"({', '.join(names)}) prune in rounds" in " ".join(read(DOCS / "concepts.md").split())


# The disk format


def keys_of(heading):
    return {row[0].strip("`") for row in rows(section(DOCS / "disk-format.md", heading))}


def test_the_disk_format_names_every_file_and_key(world):
    run, page = world / "runs" / "sst2", DOCS / "disk-format.md"
    folder = run / "model"
    assert {path.name for path in folder.iterdir()} <= keys_of("A compact folder")
    assert {path.name for path in run.iterdir()} <= {name.rstrip("/") for name in keys_of("A run folder")}
    kept = {name: json.loads(read(folder / f"{name}.json")) for name in ("plan", "config")}
    assert set(kept["plan"]) <= keys_of("`plan.json`")
    assert keys_of("The `secateur` key of `config.json`") == set(kept["config"]["secateur"])
    assert set(json.loads(read(run / "report.json"))) <= keys_of("`report.json`"), page


# Refusals


@cache
def sentences():
    """Every text with gaps in the source, as a pattern; short ones could be anything."""
    found = []
    for path in (ROOT / "src" / "secateur").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(read(path))))
        gaps = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        within = {part for node in gaps for part in ast.walk(node)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
            elif isinstance(node, ast.Constant) and node not in within:
                parts = [node.value]
            else:
                continue
            texts = [in_options(part) if isinstance(part, str) else None for part in parts]  # as the command shows it
            if sum(len(text or "") for text in texts) >= 20:
                found.append(re.compile("".join(".+" if text is None else re.escape(text) for text in texts)))
    return found


def test_every_error_in_the_docs_is_one_that_secateur_raises():
    refusals = [
        line
        for block in blocks(DOCS / "troubleshooting.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(refusals) > 10
    for line in refusals:
        message = line.removeprefix("error: ")
        assert message != line or line.startswith(f"{NOTHING_TO_KEEP}: "), line
        assert any(pattern.search(message) for pattern in sentences()), line
