"""The tests can fail: none asserts what is true whatever the code does."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


def always_true(test: ast.expr) -> bool:
    """Whether an expression is true whatever its names stand for, or in one of the branches of a condition.

    `a == b if c else [d]` is such a condition: `a == (b if c else [d])` compares.
    """
    if isinstance(test, ast.IfExp):
        return always_true(test.body) or always_true(test.orelse)
    if isinstance(test, ast.BoolOp):  # a part of `and` that is always true tests nothing, and one of `or` all
        return any(map(always_true, test.values))
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.List | ast.Tuple | ast.Set):
        return bool(test.elts)
    if isinstance(test, ast.Dict):
        return bool(test.keys)
    return isinstance(test, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.JoinedStr | ast.Lambda)


def lines_always_true(text: str) -> list[int]:
    """The lines of the asserts that cannot fail."""
    asserts = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert))
    return [node.lineno for node in asserts if always_true(node.test)]


@pytest.mark.parametrize("name", FILES)
def test_every_assert_can_fail(name):
    lines = lines_always_true((TESTS / name).read_text(encoding="utf-8"))
    assert not lines, (
        f"tests/{name}, lines {lines}: always true; a comparison with a condition needs brackets around it"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[x > 0 for x in xs]",
        "(x > 0 for x in xs)",
        "{x: x > 0 for x in xs}",
        "(x == 1, 'message')",
        "[x]",
        "{x}",
        "{'a': x}",
        "1",
        "'words'",
        "f'{x}'",
        "lambda: x == 1",
        "x == [] if c else [y]",
        "{x} if c else x == y",
        "x == 1 if c else (x == 2 if d else {'a': 1})",
        "x == 1 and [y > 0 for y in ys]",
    ],
)
def test_an_assert_that_is_always_true_is_found(text):
    assert lines_always_true(f"assert {text}") == [1]


@pytest.mark.parametrize(
    "text",
    [
        "all(x > 0 for x in xs)",
        "x == ([] if c else [y])",
        "x == 1 if c else x == 2",
        "[x for x in xs] == ys",
        "not [x for x in xs if x < 0]",
        "x",
        "False",
    ],
)
def test_an_assert_that_can_fail_passes(text):
    assert lines_always_true(f"assert {text}") == []
