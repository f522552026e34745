"""Law 4: save and load are bit-exact, in a new process, all three ways; without secateur and without trust, loud failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CLASSIFIERS, MODELS, edge_cases, inputs, outputs, random_masks, tiny
from safetensors.torch import save_file

from secateur.checkpoint import load, save
from secateur.compact import AUTO_CLASSES
from secateur.plan import Plan
from secateur.space import Space
from secateur.surgery import cut

HERE = Path(__file__).parent


def plan_of(model, *granularities, soft=False, density=0.5, **options):
    space = Space(model, *granularities)
    return cut(model, Plan.of(space, random_masks(space, density, soft=soft), **options))


def cases():
    """Name -> (head, how to make the cut model): every head, every way to die, each granularity that removes modules."""
    found = {}
    for which in MODELS:
        kind, head, shape = which.values[0]
        model = f"{kind}-{shape}-{head}"
        found[f"{model}-mixed"] = head, lambda w=which.values[0]: plan_of(tiny(*w, dtype=torch.float32), "ffn", "qk", "vo", "hidden")
    for which in CLASSIFIERS:
        kind, head, shape = which.values[0]
        model = f"{kind}-{shape}-{head}"
        found |= {
            f"{model}-edges": (head, lambda k=kind, s=shape: cut(*edge_cases(k, s, soft=True)[:2])),
            f"{model}-heads-all-dead": (head, lambda w=which.values[0]: plan_of(tiny(*w), "vo", density=0.0)),
            f"{model}-neurons-all-dead": (head, lambda w=which.values[0]: plan_of(tiny(*w), "ffn", density=0.0)),
            f"{model}-sublayers": (head, lambda w=which.values[0]: plan_of(tiny(*w), "sublayer")),
            f"{model}-rank": (head, lambda w=which.values[0]: plan_of(tiny(*w), "hidden", embedding_rank=5)),
            f"{model}-bfloat16": (head, lambda w=which.values[0]: plan_of(tiny(*w, dtype=torch.bfloat16), "ffn", "head", soft=True)),
        }
    return found


CASES = cases()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """`way case` -> what differs, from two new processes: one with secateur, one where it cannot be imported."""
    root = tmp_path_factory.mktemp("saved")
    listed = []
    for name, (head, make) in CASES.items():
        small = make().eval()
        save(small, root / name)
        batch = inputs(small)
        said, states = outputs(small, batch)
        known = {f"state.{key}": value for key, value in small.state_dict().items()}
        known |= {f"input.{key}": value for key, value in batch.items()}
        known |= {f"output.{key}": value for key, value in said.items()}
        known |= {f"output.hidden.{layer}": value for layer, value in enumerate(states)}
        save_file({key: value.clone().contiguous() for key, value in known.items()}, root / f"{name}.safetensors")
        listed.append({"folder": str(root / name), "auto": AUTO_CLASSES[head]})
    (root / "cases.json").write_text(json.dumps(listed))
    return elsewhere(root, "load,auto") | elsewhere(root, "neither,trusted")


def elsewhere(root, ways):
    environment = os.environ | {"HF_MODULES_CACHE": str(root / "modules"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(HERE.parents[1] / "src")
    command = [sys.executable, "-W", "error", str(HERE / "load_elsewhere.py"), str(root / "cases.json"), ways]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["load", "auto", "trusted", "neither"])
@pytest.mark.parametrize("case", CASES)
def test_saved_is_loaded_bit_for_bit(report, case, way):
    assert report[f"{way} {case}"] == ""


@pytest.mark.parametrize("which", CLASSIFIERS)
def test_the_plan_is_saved_and_the_folder_can_be_replaced(which, tmp_path):
    first, second = (plan_of(tiny(*which), *granularities) for granularities in (("ffn",), ("head", "hidden")))
    save(first, tmp_path / "model", card="# a card\n")
    save(second, tmp_path / "model")
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"config.json", "model.safetensors", "modeling_secateur.py", "plan.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = load(tmp_path / "model")
    assert loaded.plan == second.plan
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), second.state_dict().values(), strict=True))
    loaded.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").plan == second.plan
