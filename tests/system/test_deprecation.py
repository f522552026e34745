"""Old names warn in one form, at the line that uses them, and are deleted when their time is over."""

import ast
import re
from pathlib import Path

import pytest
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.system.deprecation import deprecated, gone_in
from secateur.system.version import VERSION

SOURCE = Path(__file__).parents[2] / "src" / "secateur"


def test_a_name_works_in_the_next_minor_version_too():
    assert [gone_in(since) for since in ("0.2.0", "0.9.3", "1.0.0")] == ["0.4.0", "0.11.0", "1.2.0"]


def test_the_warning_says_what_to_write_and_points_to_the_line_that_uses_the_old_name():
    def old():
        deprecated("old()", "new()", since="0.3.1")

    with pytest.warns(
        DeprecationWarning, match=r"^old\(\) is now new\(\); the old form works until version 0\.5\.0$"
    ) as own:
        old()
    space = Space(tiny("bert"), "head")
    with pytest.warns(DeprecationWarning, match=r"^Space\.keep\(\.\.\.\) is now Space\.choose") as of_space:
        space.keep(space.ones(), 1.0)
    assert {warning.filename for warning in (*own, *of_space)} == {__file__}


def test_no_other_code_warns_of_deprecation_and_nothing_outlives_its_time():
    now = tuple(map(int, VERSION.split(".")))
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        warned = [
            call for call in calls if "DeprecationWarning" in {getattr(argument, "id", "") for argument in call.args}
        ]
        assert not warned or path.name == "deprecation.py", f"{path}: call system.deprecation.deprecated"
        for since in re.findall(r'\bsince(?:: str)? ?= ?"([\d.]+)"', text):
            assert now < tuple(map(int, gone_in(since).split("."))), f"{path}: delete what {since} has deprecated"
