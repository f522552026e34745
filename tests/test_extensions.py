"""Every registry takes an entry from outside the package, by its decorator and by an entry point.

Extensions are loaded in processes of their own, because the registries of this one serve the other tests.
"""

import json
import subprocess
import sys

import pytest

IMPORTS = """
from dataclasses import replace

import secateur
from secateur.deploy.runtime import Runtime
from secateur.methods.scheduled import Scheduled
from secateur.structure.architectures.bert import ARCHITECTURE
from secateur.tasks.classification import Classification
"""
CLASSES = {
    "secateur.methods": "class Mine(Scheduled): '''Keeps the first units.'''",
    "secateur.tasks": "class MyTask(Classification): '''Classifies reviews.'''",
    "secateur.terms": "class MyTerm(secateur.Term): '''Adds nothing.'''",
    "secateur.runtimes": "class MyRuntime(Runtime): '''Runs nothing.'''",
}
TABLE = "MY_FAMILY = replace(ARCHITECTURE, model_type='mine')"
DECORATED = [IMPORTS, *(f"@{registry}.register('mine')\n{text}" for registry, text in CLASSES.items())]
DECORATED += [TABLE, "secateur.architectures.register(MY_FAMILY)"]
PLAIN = [IMPORTS, *CLASSES.values(), TABLE]
ENTRY_POINTS = {
    "secateur.methods": "Mine",
    "secateur.tasks": "MyTask",
    "secateur.terms": "MyTerm",
    "secateur.runtimes": "MyRuntime",
    "secateur.architectures": "MY_FAMILY",
}
LOOK_UP = """
import secateur

for registry in (secateur.methods.METHODS, secateur.tasks.TASKS, secateur.terms.TERMS, secateur.runtimes.RUNTIMES):
    print(registry.group, registry.get("mine").__name__, registry.get("mine").name)
tables = secateur.architectures.ARCHITECTURES
print(tables.group, "MY_FAMILY", tables.get("mine").model_type)
"""


def run(folder, *words):
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def decorated(tmp_path):
    """A folder with a module `extension_of_mine` that registers one entry of each kind by its decorator."""
    (tmp_path / "extension_of_mine.py").write_text("\n\n".join(DECORATED) + "\n")
    return tmp_path


@pytest.fixture
def installed(tmp_path):
    """A folder with a package that is installed there, and names one entry of each kind in its entry points."""
    (tmp_path / "extension_of_mine.py").write_text("\n\n".join(PLAIN) + "\n")
    metadata = tmp_path / "extension_of_mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extension-of-mine\nVersion: 1.0\n")
    groups = [f"[{group}]\nmine = extension_of_mine:{name}\n" for group, name in ENTRY_POINTS.items()]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return tmp_path


def found(text):
    return [tuple(line.split()) for line in text.splitlines()]


EXPECTED = [(group, name, "mine") for group, name in ENTRY_POINTS.items()]


def test_decorators_register_from_any_module(decorated):
    assert found(run(decorated, "-c", f"import extension_of_mine\n{LOOK_UP}")) == EXPECTED


def test_entry_points_of_an_installed_package_are_registered(installed):
    assert found(run(installed, "-c", LOOK_UP)) == EXPECTED


def test_the_command_line_imports_extensions_by_name_and_by_path(decorated):
    (decorated / "other.py").write_text((decorated / "extension_of_mine.py").read_text().replace("'mine'", "'other'"))
    imports = ("--import", "extension_of_mine", "--import", "other.py")
    listed = json.loads(run(decorated, "-m", "secateur", *imports, "list", "--json"))
    assert listed["method"]["mine"] == listed["method"]["other"] == "Keeps the first units."
    assert {"mine", "other"} <= set(listed["task"]) & set(listed["architecture"])
