"""The table of commands, and that a command is imported when it is used."""

import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secateur.budget.amounts import fractions
from secateur.cli import app
from secateur.cli.commands import COMMANDS, Commands
from secateur.cli.recipe_options import marked
from secateur.measure import sensitivity
from secateur.methods import METHODS
from secateur.run import calibration
from secateur.run.post_training import SHAPE

KEY_NAMES = {key.replace(".", "_") for key in marked()}
HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "accelerate")
OTHERS = ("numpy", "pydantic", "yaml", "psutil", "jinja2", "huggingface_hub", "secateur.run", "secateur.methods")
"""What the list of commands does not need either: with these it would take half a second."""


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


@pytest.mark.parametrize("name", [name for name, entry in COMMANDS.items() if entry.example])
def test_a_command_that_is_given_nothing_explains_itself_by_an_example_that_it_understands(name):
    result = CliRunner().invoke(app.app, [name])
    entry, command = COMMANDS[name], Commands()[name]
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    shown = result.stderr.splitlines()
    assert shown[0] == entry.summary and f"    {entry.example}" in shown
    assert shown[-1] == f"All options: secateur {name} --help"
    program, verb, *words = shlex.split(entry.example)
    assert (program, verb) == ("secateur", name) and command.make_context(name, words).params
    assert entry.example in CliRunner().invoke(app.app, [name, "--help"]).stdout


@pytest.mark.parametrize(
    ("words", "missing"), [("cut m", "--output"), ("publish a", "name"), ("export -o x", "folder")]
)
def test_what_is_missing_is_named_with_an_example(words, missing):
    result = CliRunner().invoke(app.app, words.split())
    assert result.exit_code == 2
    said = result.stderr.splitlines()[-1]
    assert said.startswith(f"Error: {missing} is missing: give it, as in `{COMMANDS[words.split()[0]].example}` (")


@pytest.mark.parametrize("name", [name for name, entry in COMMANDS.items() if not entry.example])
def test_a_command_without_an_example_needs_nothing(name):
    assert not any(parameter.required for parameter in Commands()[name].params)


def test_the_command_alone_says_how_to_begin():
    shown = CliRunner().invoke(app.app, [], terminal_width=200)
    assert COMMANDS["prune"].example in shown.output and "secateur demo" in shown.output


@pytest.mark.parametrize(("typed", "offered"), [("secateur prune --den", "--density"), ("secateur ex", "export")])
def test_the_shell_completes_commands_and_options(typed, offered):
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_SECATEUR_COMPLETE": "complete_bash"}
    result = CliRunner().invoke(app.app, [], env=asked, prog_name="secateur")
    assert result.stdout.split() == [offered]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_does_takes_what_is_declared(name):
    declared = getattr(import_module(f"secateur.cli.{COMMANDS[name].module}"), COMMANDS[name].function)
    works = [import_module(f"secateur.cli.{path.stem}") for path in Path(app.__file__).parent.glob("*_work.py")]
    (done,) = [work for work in works if inspect.getmodule(getattr(work, declared.__name__, None)) is work]
    taken = set(inspect.signature(getattr(done, declared.__name__)).parameters)
    assert taken - {"given"} == {each.name for each in Commands()[name].params if each.name not in KEY_NAMES | {"help"}}


def test_the_defaults_that_are_declared_are_those_of_the_library():
    cut, study = Commands()["cut"].params, Commands()["sensitivity"].params
    defaults = {(each.name): each.default for each in (*cut, *study)}
    assert defaults["calibration_rows"] == calibration.ROWS and defaults["rows"] == sensitivity.ROWS
    assert defaults["by"] == sensitivity.GRADIENT
    units = next(each.default for each in study if each.name == "units")
    assert units == ",".join(sensitivity.UNITS) and fractions(defaults["densities"]) == sensitivity.DENSITIES


def options_of(name):
    """Option -> its help with its default, in one line."""
    shown = CliRunner().invoke(app.app, [name, "--help"], terminal_width=120).stdout
    parts = re.split(r"^  (?=-)", shown, flags=re.M)
    return {
        option: " ".join(part.split()) for part in parts for option in re.findall(r"--[a-z-]+", part.split("  ")[0])
    }


def test_the_help_says_the_defaults_that_a_command_has():
    cut, prune = map(options_of, ("cut", "prune"))
    assert all(",".join(METHODS.get(name).defaults["target.units"]) == "head,ffn" for name in ("fisher", "obs"))
    assert "those of the method (head,ffn of fisher and obs), else ffn,qk,vo" in cut["--units"]
    assert "x".join(map(str, SHAPE)) in cut["--shape"] and "measurement.shapes" not in cut["--shape"]
    assert "several" not in cut["--density"] and "several" in prune["--density"]
    assert "or those of the method" in prune["--units"] and "or that of the task" in prune["--max-length"]


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_general_options_import_neither_torch_nor_a_command(words):
    loaded = loaded_by(words)
    drawing = {"rich.table"} if words == ["--version"] else {"rich"}
    assert not loaded & {*HEAVY, *OTHERS, *drawing, *(f"secateur.cli.{entry.module}" for entry in COMMANDS.values())}


def test_help_mistakes_and_the_diagnosis_import_nothing_heavy():
    words = [*([name, "--help"] for name in COMMANDS), ["prune", "m", "--steps", "many"], ["doctor"]]
    assert not loaded_by(*words) & set(HEAVY)


def loaded_by(*lines):
    """The modules that are imported when the command is called with each of the lines of words."""
    code = (
        "import sys\n"
        "from secateur.cli.app import app\n"
        f"for words in {lines!r}:\n"
        "    try:\n        app(words)\n    except SystemExit:\n        pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "secateur.cli.app" in loaded
    return loaded
