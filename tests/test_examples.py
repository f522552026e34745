"""The examples run, and the method and the architecture that they add keep the laws."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from secateur.structure.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'examples'}", "OMP_NUM_THREADS": "1"}
SOME = " and ".join(f"not {word}" for word in ("hidden", *ARCHITECTURES.all()) if word != "bert")  # one family


def run(*words):
    """A Python process in the repository; gives what it printed."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_example_prunes_to_its_density_and_keeps_more_than_chance():
    lines = [line.split() for line in run("examples/add_a_method.py").splitlines()]
    table = {name: (float(density), float(accuracy)) for name, density, _, accuracy in lines[1:]}
    assert list(table) == ["(dense)", "taylor-once", "magnitude", "random"]
    assert all(0 < density <= 0.1 for density, _ in list(table.values())[1:])
    assert table["(dense)"][1] > 0.9 and table["taylor-once"][1] > 0.7


def test_the_laws_hold_for_the_method_by_the_command_in_contributing():
    """In a process of its own, so that the method is in no registry but that one's."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    command = re.search(r"^PYTHONPATH=examples \.venv/bin/pytest (-p add_a_method .*)$", text, re.MULTILINE)
    assert command, "CONTRIBUTING.md does not say how the laws run over the example any more"
    words = shlex.split(command[1], comments=True)
    name = words.index("taylor-once")
    words[name] = f"taylor-once and {SOME}"
    output = run("-m", "pytest", "-p", "no:cacheprovider", *words)
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) > 15 and "failed" not in output, output[-3000:]


def test_the_example_of_an_architecture_cuts_what_it_masks():
    density, difference = run("examples/add_an_architecture.py").splitlines()
    assert density.startswith("density 0.25") and float(difference.split()[-1]) < 1e-5


def test_the_laws_hold_for_the_architecture_by_the_command_in_the_docs():
    """Laws 1 to 3, 7, 9 and 13 of those that the command runs, in a process of its own, as above."""
    text = (ROOT / "docs" / "add-an-architecture.md").read_text(encoding="utf-8")
    command = re.search(r"^PYTHONPATH=examples \.venv/bin/pytest (-p add_an_architecture .*)$", text, re.MULTILINE)
    assert command, "docs/add-an-architecture.md does not say how the laws run over the example any more"
    words = shlex.split(command[1])
    words[words.index("tests/laws")] = "tests/laws/test_law_02_cut.py"
    others = [
        f"tests/laws/test_law_{name}.py" for name in ("01_ones", "03_counts", "07_taylor", "09_detach", "13_exported")
    ]
    output = run("-m", "pytest", "-p", "no:cacheprovider", *words, *others)
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) > 100 and "failed" not in output, output[-3000:]
