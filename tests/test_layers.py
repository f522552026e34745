"""The rooms of the package, and that imports between them point down only."""

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "secateur"
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py"))

# A room -> the rooms that its modules may import from, besides its own. The rooms above come first.
ROOMS = {
    "cli": "__init__ run report measure deploy training tasks surgery methods budget structure system",
    "run": "report measure deploy training tasks surgery methods budget structure system",
    "report": "measure deploy training tasks surgery methods budget structure system",
    "measure": "deploy training tasks surgery methods budget structure system",
    "deploy": "training tasks surgery methods budget structure system",
    "training": "surgery methods budget structure system",
    "tasks": "surgery structure system",
    "methods": "surgery budget structure system",
    "surgery": "structure system",
    "budget": "structure system",
    "structure": "system",
    "system": "",
}
# The modules beside the rooms: the public surface, and the command `python -m secateur`.
ROOMS |= {"__init__": " ".join(ROOMS), "__main__": "cli"}
TRAINERS = {"system/compat/trainer", "system/compat/sharding_trainer", "system/compat/ordered_trainer"}
"""The modules that know the trainers of transformers."""


def imported(module: str) -> set[str]:
    """Dotted names that `module` imports anywhere in its text, with the names that a from-import picks."""
    package, names = ["secateur", *module.split("/")[:-1]], set()
    for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = [*parents, node.module] if node.module else parents
            names |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("transformers."):
            names.add(ast.unparse(node))
    return names


def rooms_imported(module: str) -> set[str]:
    """The rooms that a module imports from; `__init__` where it imports the public surface."""
    parts = [name.split(".") for name in imported(module) if name.split(".")[0] == "secateur"]
    return {part[1] if len(part) > 1 and part[1] in ROOMS else "__init__" for part in parts}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    room = module.split("/")[0]
    assert room in ROOMS, f"secateur/{module}.py is in no room: move it into one of {', '.join(ROOMS)}"
    wrong = rooms_imported(module) - {room, *ROOMS[room].split()}
    assert not wrong, f"secateur/{module}.py may import from {ROOMS[room]}, not from {sorted(wrong)}"


@pytest.mark.parametrize("module", MODULES)
def test_only_training_knows_the_trainer(module):
    trainers = {name for name in imported(module) if name.startswith("transformers") and name.endswith("Trainer")}
    assert not trainers or module in TRAINERS, f"secateur/{module}.py imports {trainers}: go through the trainer"


BESIDE = ("surgery/schema", "surgery/auto_names")
SHIPPED = [module for module in MODULES if module.startswith("surgery/compact/") or module in BESIDE]


@pytest.mark.parametrize("module", SHIPPED)
def test_shipped_code_stands_alone(module):
    """The sources of the code in a compact folder; the built file is checked in `test_shipped_code`."""
    own = {f"secateur.{name.replace('/', '.')}" for name in (*SHIPPED, "surgery/shipped_code")}
    outside = {name for name in imported(module) if not any(name.startswith(f"{one}.") for one in own)}
    assert {name.split(".")[0] for name in outside} <= {"torch", "transformers", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_named_utils_or_helpers(module):
    assert not {"utils", "common", "helpers", "core"} & set(module.split("/")), "name the file after what it does"


def test_no_two_files_of_tests_have_one_name():
    """They are imported by their names alone, so that of two only the first would be collected."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
