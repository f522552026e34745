"""Law 10: the same seed gives the same plan, in this process and in another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for tiny_models, when run as a script

from tiny_models import CLASSIFIERS, METHODS, UNIT_SETS, WRITERS, covering, taught, tiny  # noqa: E402

from secateur.budget.space import Space  # noqa: E402


def as_json():
    """`model-units-method` -> the plan, everything constructed from seed 0."""
    found = {}
    for case in covering((*CLASSIFIERS, WRITERS[-1]), UNIT_SETS, METHODS):
        which, units, name = case.values
        space = Space(tiny(*which), *units)
        plan = taught(name, space, density=0.6).plan(density=0.4)
        found[case.id] = plan.to_dict(space)
    return json.dumps(found)


@pytest.fixture(scope="module")
def here_and_elsewhere():
    """Plans of this process, of this process again, and of one with another hash seed."""
    source = str(HERE.parents[1] / "src")
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return as_json(), as_json(), done.stdout.splitlines()[-1]


def test_same_seed_same_plan(here_and_elsewhere):
    first, again, elsewhere = map(json.loads, here_and_elsewhere)
    assert first == again
    assert first == elsewhere
    assert all(0 < plan["achieved"]["prunable"] <= 0.4 for plan in first.values())


if __name__ == "__main__":
    print(as_json())
