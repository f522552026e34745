"""The sizes of functions, classes and files, so that each can be read at a glance."""

import ast
import statistics
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "secateur"
FILES = sorted(SOURCE.rglob("*.py"))
REASON = "This file is long because"
"""How the docstring of a longer file begins the sentence that says why."""
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def nodes(path, kinds):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


def lines(function):
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_is_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350 or REASON in (ast.get_docstring(ast.parse(text)) or "")
    long = {node.name: lines(node) for node in nodes(path, FUNCTION) if lines(node) > 30}
    assert not long, "a function fits a screen"
    methods = {node.name: sum(isinstance(part, FUNCTION) for part in node.body) for node in nodes(path, ast.ClassDef)}
    assert not {name: count for name, count in methods.items() if count > 20}, "a class has few methods"


def test_most_functions_are_a_few_lines():
    assert statistics.median(lines(node) for path in FILES for node in nodes(path, FUNCTION)) <= 8
