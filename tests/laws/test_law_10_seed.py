"""Law 10: the same seed gives the same plan, in this process and in another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for conftest, when run as a script

from conftest import CLASSIFIERS, GRANULARITIES, METHODS, taught, tiny  # noqa: E402

from secateur.space import Space  # noqa: E402


def plans():
    """`model granularities method` -> the plan as JSON, everything made anew from seed 0."""
    found = {}
    for which in CLASSIFIERS:
        for granularities in (GRANULARITIES[0], GRANULARITIES[-1]):
            for name in METHODS:
                space = Space(tiny(*which.values[0]), *granularities)
                plan = taught(name, space, density=0.6).plan(density=0.4)
                found[f"{which.id} {'-'.join(granularities)} {name}"] = plan.to_dict(space)
    return found


@pytest.fixture(scope="module")
def here_and_elsewhere():
    """Plans of this process, again of this process, and of one in which sets and hashes have another order."""
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(HERE.parents[1] / "src")}
    command = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(json.dumps(plans())), json.loads(json.dumps(plans())), json.loads(done.stdout.splitlines()[-1])


def test_same_seed_same_plan(here_and_elsewhere):
    first, again, elsewhere = here_and_elsewhere
    assert first == again
    assert first == elsewhere
    assert all(0 < plan["achieved"]["prunable"] <= 0.4 for plan in first.values())


if __name__ == "__main__":
    print(json.dumps(plans()))
