"""Imports inside the package point one way. A new module gets a row in the table here."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "secateur"
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py"))

# A module, or every module of a folder -> what it may import of secateur. A folder's name stands for all that
# is in it; `folder/__init__` for the bare package, which a registry needs to discover the folder's files. A module's
# own row goes before its folder's.
ALLOWED = {
    "errors": "",
    "processes": "errors",
    "compact": "",  # travels alone inside every saved folder: torch, transformers and the standard library
    "architecture": "errors architectures/__init__",
    "architectures": "errors architecture architectures",
    "cost": "errors architecture",
    "tiles": "errors architecture",
    "space": "errors architecture cost tiles",
    "masking": "errors architecture space",
    "schedules": "errors",
    "layout": "",
    "plan": "errors architecture layout space",
    "counting": "errors space",
    "methods": "errors methods/__init__ methods/method methods/scheduled methods/gated counting space cost schedules "
    "plan masking",
    "objectives": "errors",
    "store": "errors",
    "resident": "",
    "teachers": "errors objectives store",
    "tasks": "errors tasks/__init__ tasks/splits tasks/task",
    "tasks/pairs": "errors tasks/splits",
    "tasks/writing": "errors tasks/task",
    "tasks/sequences": "errors tasks/pairs tasks/splits tasks/task tasks/writing",
    "tasks/translation": "tasks/sequences tasks/task",
    "tasks/summarisation": "tasks/sequences tasks/task",
    "tasks/splits": "errors",
    "tasks/answers": "",
    "tasks/passages": "errors tasks/splits",
    "tasks/questions": "errors tasks/answers tasks/passages tasks/splits tasks/task",
    "augment": "",
    "dropout": "",
    "averaging": "",
    "order": "",
    "finite": "",
    "rates": "errors",
    "snapshots": "",
    "training": "errors averaging finite masking methods moments objectives order plan rates resident shrinking "
    "snapshots space teachers",
    "evaluation": "errors runtimes tasks training",
    "moments": "",
    "surgery": "errors layout moments plan space architecture compact masking",
    "holes": "plan surgery",
    "shrinking": "architecture compact moments plan space surgery",
    "plain": "errors architecture plan space surgery",
    "checkpoint": "errors compact plan surgery space architecture",
    "verify": "errors checkpoint export formats masking plan runtimes space surgery",
    "bench": "errors runtimes",
    "roofline": "errors bench",
    "gpu": "errors",
    "memory": "errors bench checkpoint compact gpu resident runtimes",
    "contest": "errors bench checkpoint formats gpu memory roofline runtimes",
    "formats": "errors plan",
    "runtimes": "errors formats",
    "export": "errors formats runtimes",
    "inspection": "errors architecture cost plan space surgery",
    "pictures": "",
    "charts": "pictures",
    "page": "pictures",
    "record": "errors checkpoint compact plan",
    "story": "charts page pictures record",
    "report": "errors page record story",
    "knapsack": "",
    "choice": "knapsack space",
    "latency": "errors bench choice plan space surgery",
    "scratch": "errors architecture checkpoint tasks",
    "card": "compact methods report",
    "recipe": "errors latency methods tasks",
    "sensitivity": "errors bench evaluation masking methods page pictures space tasks",
    "comparison": "report",
    "runs": "comparison errors recipe report tasks",
    "overview": "comparison page pictures",
}
# On top: the whole job, what is shown of it, and the command.
LOWER = " ".join(ALLOWED)
ALLOWED |= {
    "folder": "errors recipe",
    "watching": "folder methods processes resident schedules training",
    "given": "errors augment evaluation folder processes recipe tasks teachers",
    "lessons": "moments objectives plan recipe space",
    "spent": "folder processes resident",
    "stages": f"{LOWER} folder given lessons spent watching",
    "walk": f"{LOWER} folder stages",
    "console": "errors processes comparison contest inspection latency report sensitivity verify",
    "arguments": LOWER,
    "serving": f"{LOWER} arguments console",
    "studies": f"{LOWER} arguments console",
    "__init__": f"{LOWER} stages",
    "__main__": "cli",
    "cli": f"{LOWER} stages walk arguments serving studies console __init__ __version__",
}


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


def module_of(name: str) -> str:
    """The module that a dotted name of secateur lies in, written as in `MODULES`."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        if found := [module for module in (path, f"{path}/__init__") if module in MODULES]:
            return found[0]
    return parts[0] if parts else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    row = module if module in ALLOWED else module.split("/")[0]
    assert row in ALLOWED, f"secateur/{module}.py has no row in tests/test_layers.py: say what it may import"
    allowed = {*ALLOWED[row].split(), *([row] if module.endswith("/__init__") else [])}
    targets = {module_of(name) for name in imported(module) if name.split(".")[0] == "secateur"} - {module}
    wrong = {target for target in targets if not allowed & {target, target.split("/")[0]}}
    assert not wrong, f"secateur/{module}.py may import {sorted(allowed)} of secateur, not {sorted(wrong)}"


@pytest.mark.parametrize("module", MODULES)
def test_only_training_knows_the_trainer(module):
    trainers = {name for name in imported(module) if name.startswith("transformers") and name.endswith("Trainer")}
    assert not trainers or module == "training", f"secateur/{module}.py imports {trainers}: go through training.py"


@pytest.mark.skipif("compact" not in MODULES, reason="secateur/compact.py is not written yet")
def test_compact_stands_alone():
    roots = {name.split(".")[0] for name in imported("compact")}
    assert roots <= {"torch", "transformers", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", MODULES)
def test_no_drawer_for_odds_and_ends(module):
    assert not {"utils", "common", "helpers", "core"} & set(module.split("/")), "name the file after what it does"
