"""The table of commands, and that a command is imported when it is used."""

import inspect
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.cli.commands import COMMANDS, Commands

HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "accelerate")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_the_first_line_of_the_docstring(name):
    command = Commands()[name]
    assert command.name == name
    assert inspect.cleandoc(command.help).splitlines()[0] == COMMANDS[name].summary


def test_the_list_of_commands_is_complete_and_not_wrapped():
    shown = CliRunner().invoke(app.app, ["--help"], terminal_width=120).stdout
    for name, entry in COMMANDS.items():
        assert any(line.split() == [name, *entry.summary.split()] for line in shown.splitlines()), name


def test_a_mistyped_command_names_the_nearest():
    result = CliRunner().invoke(app.app, ["prun", "model"])
    assert result.exit_code == 2 and "'prune'" in result.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_general_options_import_neither_torch_nor_a_command(words):
    code = (
        "import sys\n"
        "from secateur.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "secateur.cli.app" in loaded
    assert not loaded & {*HEAVY, *(f"secateur.cli.{entry.module}" for entry in COMMANDS.values())}
