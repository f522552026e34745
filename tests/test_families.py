"""The table in docs/families.md says of each family what the tests say that run for it."""

import importlib.util
import re
import sys
from functools import cache

from test_docs import DOCS, read, rows, section
from tiny_models import ARCHITECTURES, NAMESAKES

PAGE = DOCS / "families.md"
HEADS = {
    "Model": "no head",
    "ForSequenceClassification": "sequences",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "questions",
    "ForImageClassification": "images",
    "ForCausalLM": "texts",
    "ForConditionalGeneration": "texts",
    "MTModel": "texts",
}


@cache
def cases_of_columns():
    """Column -> the cases of the tests that its cells are of, or those with a word that follows the name of a test."""
    found = {}
    for column, link, tests in rows(section(PAGE, "The tests")):
        path = (DOCS / re.search(r"\((.*)\)", link)[1]).resolve()
        found[column] = []
        for test in tests.split(", "):
            name, _, word = test.strip("`]").partition("[")
            found[column] += [case for case in cases(getattr(module(path), name)) if not word or word in case]
    return found


@cache
def module(path):
    spec = importlib.util.spec_from_file_location(f"of_families_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path.remove(str(path.parent))
    return found


def cases(function):
    """The words of each case of a test, its parameters as they are and the parts of texts such as names of cases."""
    found = []
    for mark in getattr(function, "pytestmark", ()):
        for values in mark.args[1] if mark.name == "parametrize" else ():
            found.append([*words(values)])
    return found


def words(value):
    if isinstance(value, str):
        yield value
        yield from (kind for kind in ARCHITECTURES if value.startswith(f"{kind}-"))
    elif isinstance(value, tuple | list):  # a set of parameters is a tuple
        for part in value.values if hasattr(value, "values") else value:
            yield from words(part)


def cell(column, kind):
    found = [case for case in cases_of_columns()[column] if kind in case]
    other = NAMESAKES.get(kind)
    if column == "tasks":
        own = [name for head, name in HEADS.items() if any(head in case for case in found)]
        return ", ".join([*own, *([f"others as `{other}`"] if other else [])])
    if found:
        return "yes"
    return f"as `{other}`" if other and any(other in case for case in cases_of_columns()[column]) else ""


def test_each_cell_is_a_test():
    _, *columns = next(line for line in read(PAGE).splitlines() if line.startswith("| family")).strip("| ").split(" | ")
    assert columns == [*cases_of_columns()]
    expected = [[f"`{kind}`", *(cell(column, kind) for column in columns)] for kind in ARCHITECTURES]
    assert rows(section(PAGE, "What is tested")) == expected, "\n".join(f"| {' | '.join(row)} |" for row in expected)
