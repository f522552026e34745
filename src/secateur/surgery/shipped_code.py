"""The file of code in a compact folder, `modeling_secateur.py`, made from the modules of `compact` and the schema.

The modules are joined in the order of their imports. Imports from one another are left out, all other imports are
collected at the top, and every other line, comments included, is copied unchanged.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOM = Path(__file__).parent
SOURCES = (
    "schema.py",
    "compact/modules.py",
    "compact/kernels.py",
    "compact/attention.py",
    "compact/disentangled.py",
    "compact/attention_calls.py",
    "compact/shapes.py",
    "compact/resizing.py",
    "compact/integrity.py",
    "compact/hub_files.py",
    "auto_names.py",
    "compact/pretrained.py",
)
DOCSTRING = '''"""The classes of models that secateur has cut, for places where secateur is not installed.

transformers runs this file with `trust_remote_code=True`. It imports torch, transformers and the standard library.
"""'''


@cache
def shipped_code() -> str:
    """The text of `modeling_secateur.py`."""
    imports: set[str] = set()
    bodies = []
    for source in SOURCES:
        found, body = _split(ROOM.joinpath(source).read_text(encoding="utf-8"))
        imports |= found
        bodies.append(body)
    plain = sorted(line for line in imports if line.startswith("import "))
    named = sorted(line for line in imports if line.startswith("from "))
    head = "\n".join([DOCSTRING, "", "from __future__ import annotations", "", *plain, *named])
    return "\n\n\n".join([head, *bodies]) + "\n"


def _split(text: str) -> tuple[set[str], str]:
    """The imports of a module from outside secateur, one name a line, and its lines without docstring and imports."""
    lines = text.splitlines()
    imports: set[str] = set()
    for node in ast.parse(text).body:
        docstring = isinstance(node, ast.Expr) and node.lineno == 1
        if isinstance(node, ast.Import | ast.ImportFrom) or docstring:
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= set(_one_by_one(node))
    return imports, "\n".join(lines).strip("\n")


def _one_by_one(node: ast.Import | ast.ImportFrom) -> list[str]:
    names = [ast.unparse(alias) for alias in node.names]
    if isinstance(node, ast.Import):
        return [f"import {name}" for name in names]
    if node.module == "__future__" or str(node.module).split(".")[0] == "secateur":
        return []
    return [f"from {node.module} import {name}" for name in names]
