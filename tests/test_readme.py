"""What the README shows works: its Python runs as it stands, its commands and options exist."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import transformers
import typer
from small_world import tokenizer
from tiny_models import tiny
from transformers import DataCollatorWithPadding

from secateur import cli
from secateur.compact import Pruned

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = [block for language, block in FENCE.findall(README) if language == "python"]
LINES = [
    line
    for language, block in FENCE.findall(README)
    if language != "python"
    for line in block.replace("\\\n", " ").splitlines()
]
INLINE = re.findall(r"`([^`\n]+)`", FENCE.sub("", README))
COMMANDS = [text for text in (*LINES, *INLINE) if text.startswith("secateur ")]
VERBS = typer.main.get_command(cli.app).commands

TEACHER = "models/bert-sst2"
COMPACT = "compact/grain-sst2"
# What the blocks take for granted -> what the test provides.
ROWS = [{**tokenizer()(text), "labels": label} for text, label in (("a fine film", 1), ("a dull and bad book", 0)) * 4]
GIVEN = {
    "train": ROWS,
    "dev": ROWS[:2],
    "tokenizer": tokenizer(128),
    "collate": DataCollatorWithPadding(tokenizer(128)),
}
# What only a model of a real size, or a GPU, can do -> what it is for a tiny one.
SMALLER = {"embedding_rank=192": "embedding_rank=12", "bf16=True": "bf16=True, use_cpu=True"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with the teacher in it."""
    tiny("bert", dtype=torch.float32, max_position_embeddings=128).save_pretrained(tmp_path / TEACHER)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers adds the folder of modules
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_blocks_run_one_after_the_other(place):
    text = "\n".join(PYTHON)
    for name in (f'"{TEACHER}"', f'"{COMPACT}"', *SMALLER, *(f"={name}" for name in GIVEN)):
        assert name in text, f"README.md does not say {name} any more: change this test with it"
    names = dict(GIVEN)
    for number, block in enumerate(PYTHON):
        for said, done in SMALLER.items():
            block = block.replace(said, done)
        exec(compile(block, f"README.md, Python block {number + 1}", "exec"), names)
    assert isinstance(names["small"], Pruned)
    assert json.loads((place / COMPACT / "plan.json").read_text()) == names["sec"].load(COMPACT).plan


def parsed(line):
    """Read a command line as the command would; nothing is run."""
    _, verb, *words = shlex.split(line, comments=True)
    return VERBS[verb].make_context(verb, words)


def test_every_command_can_be_parsed():
    assert COMMANDS, "README.md shows no command any more"
    for line in COMMANDS:
        parsed(line)


WRONG = {"prone m": "prone", "prune m --output x --densty 1": "--densty", "cut m": "output", "list m": "m"}


@pytest.mark.parametrize("words", WRONG)
def test_a_command_that_is_none_is_found(words):
    with pytest.raises(Exception, match=WRONG[words]):
        parsed(f"secateur {words}")


def test_every_verb_and_option_is_there():
    section = README.partition("\n## The command\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert "prune" in listed and set(listed) <= set(VERBS)
    options = {verb: {flag for option in command.params for flag in option.opts} for verb, command in VERBS.items()}
    assert {text.split()[0] for text in INLINE if text.startswith("--")} <= set().union(*options.values())
    assert "Every verb takes `--json`" not in README or all("--json" in known for known in options.values())


def test_every_target_and_file_is_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {line.split()[1] for line in LINES if line.startswith("make ")} <= set(targets)
    named = re.findall(r"\brecipes/[\w-]+\.yaml\b", README) + re.findall(r"\]\(([\w./-]+)\)", README)
    assert named and all((ROOT / path).is_file() for path in named)
