"""Law 10: the same seed gives the same plan, in this process and in another."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for tiny_models, when run as a script

from other_process import last_line  # noqa: E402
from tiny_models import CLASSIFIERS, METHODS, UNIT_SETS, WRITERS, for_every_method, taught, tiny  # noqa: E402

from secateur.budget.space import Space  # noqa: E402


def as_json():
    """`model-units-method` -> the plan, everything constructed from seed 0."""
    found = {}
    for case in for_every_method((*CLASSIFIERS, WRITERS[-1]), UNIT_SETS[-3:], METHODS):
        which, units, name = case.values
        space = Space(tiny(*which), *units)
        plan = taught(name, space, density=0.6).plan(density=0.4)
        found[case.id] = plan.to_dict(space)
    return json.dumps(found)


@pytest.fixture(scope="module")
def here_and_elsewhere():
    """Plans of this process, of this process again, and of one with another hash seed."""
    return as_json(), as_json(), last_line(__file__, PYTHONHASHSEED="7")


def test_same_seed_same_plan(here_and_elsewhere):
    first, again, elsewhere = map(json.loads, here_and_elsewhere)
    assert first == again
    assert first == elsewhere
    assert all(0 < plan["achieved"]["prunable"] <= 0.4 for plan in first.values())


if __name__ == "__main__":
    print(as_json())
