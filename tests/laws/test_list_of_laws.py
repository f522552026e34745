"""The list of the laws names every file that tests a law, by the numbers in the file's first sentence."""

import ast
import re
from pathlib import Path

LAWS = Path(__file__).parent


def numbers_by_file():
    """File -> the numbers of the laws that it says it tests."""
    found = {}
    for path in LAWS.parent.rglob("test_*.py"):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        if numbers := re.match(r"Laws? (\d+(?:(?:, | and )\d+)*)\b", first):
            found[path.resolve()] = sorted(map(int, re.findall(r"\d+", numbers[1])))
    return found


def test_the_list_of_laws_names_the_files_that_test_them():
    rows = re.findall(r"^\| (\d+) \|(.*)$", (LAWS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 17))
    listed = {}
    for number, cells in rows:
        for name in re.findall(r"\]\(([^)]+)\)", cells):
            listed.setdefault((LAWS / name).resolve(), []).append(int(number))
    assert listed == numbers_by_file()
