"""The program in a `torch.export` file, checked so that PyTorch runs nothing when it reads it.

A program is JSON, but PyTorch evaluates some of its texts as Python: expressions of sizes (by sympy), guards, and names
that it writes into generated source. Here every text must be a word, an expression of sizes or a description of tuples,
and what is not needed to run the program is left out.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from secateur.system.errors import UserError

WORD = re.compile(r"[\w.+-]*")
EQUATION = re.compile(r"[\w ,.>-]*")
"""The argument of an operator: of einsum, or a word such as the kind of a GELU."""
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file|save|load)\w+\.\w+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
)
NAME = re.compile(r"\w*")
PATTERNS = {"target": OPERATOR, "name": NAME, "forward_arg_names": NAME, "as_string": EQUATION, "as_strings": EQUATION}
"""Key -> what its texts must match; those of other keys are words."""
ARGUMENTS = re.compile(
    r"as_(optional_)?tensors?|as_(sym_)?(int|float|bool)s?|as_strings?|as_none|as_scalar_type|as_memory_format|as_layout"
    r"|as_device|as_name|as_expr|as_int_lists|as_nested_tensors"
)
"""Kinds of arguments: no custom objects, functions or programs within the program."""
SIZE = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant)
ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop)
"""What an expression of sizes may consist of, as Python parses it."""
TUPLES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
DROPPED: dict[str, Any] = {"metadata": {}, "guards_code": []}
"""Notes of the exporter and checks of inputs, which are not needed: key -> what stands in its place."""


def plain_program(program: dict[str, Any]) -> dict[str, Any]:
    """The program with all texts checked.

    Raises:
        UserError: a text could be run as Python, or there is an argument of an unknown kind.
    """
    checked: dict[str, Any] = _checked(program, "")
    return checked


def _checked(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _entry(name, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_checked(inner, key) for inner in value]
    if isinstance(value, str) and not _harmless(value, key):
        raise UserError(f"its program has the {key} {value[:80]!r}, which may be code")
    return value


def _entry(name: str, value: Any) -> Any:
    if not WORD.fullmatch(name) or (name.startswith("as_") and not ARGUMENTS.fullmatch(name)):
        raise UserError(f"its program has the key {name[:80]!r}, which may be code")
    return DROPPED[name] if name in DROPPED else _checked(value, name)


def _harmless(text: str, key: str) -> bool:
    """Whether a text under a key can be read without running it."""
    if key == "expr_str":
        return _is_size(text)
    if key in ("in_spec", "out_spec"):
        return _is_tuples(text)
    return bool(PATTERNS.get(key, WORD).fullmatch(text))


def _is_size(text: str) -> bool:
    """Whether a text is an expression of sizes: numbers, symbols and calls of functions of sympy, as it prints them."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, RecursionError):
        return False
    functions = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return (
        all(isinstance(node, (*SIZE, *ARITHMETIC)) for node in nodes)
        and all(
            isinstance(function, ast.Name) and re.fullmatch("[A-Z][A-Za-z]+", function.id) for function in functions
        )
        and all(re.fullmatch(r"[A-Za-z]\w*", name) for name in (*names, *texts))
    )


def _is_tuples(text: str) -> bool:
    """Whether a text describes nested tuples, lists and dicts with words as keys, and nothing else."""
    try:
        version, spec = json.loads(text)
    except (ValueError, TypeError):
        return False
    return version == 1 and _is_spec(spec)


def _is_spec(spec: Any) -> bool:
    if not isinstance(spec, dict) or set(spec) != {"type", "context", "children_spec"} or spec["type"] not in TUPLES:
        return False
    context = None if spec["context"] is None else json.loads(spec["context"])
    keys = context if isinstance(context, list) else [] if context is None else [context]
    words = all(isinstance(key, str) and re.fullmatch(r"\w+", key) for key in keys)
    return words and all(_is_spec(child) for child in spec["children_spec"])
