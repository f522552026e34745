"""What `pruned.jsonl` says is kept while a model is pruned: what the log beside it says, by whatever masks."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.methods import METHODS
from secateur.methods.method import kept_at_present
from secateur.run.callbacks import KeptUnitsFile

CASES = [("subset", {"faithful": True}), ("subset", {}), ("voita", {"faithful": True}), ("voita", {}), ("random", {})]
STATE = SimpleNamespace(global_step=3, max_steps=9)


@pytest.mark.parametrize("progress", [0.3, 0.5, 0.999], ids=["hot", "warm", "cold"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_units_of_the_file_are_those_of_the_log(kind, options, progress, tmp_path):
    torch.manual_seed(0)
    space = Space(tiny("bert"), "head", budget=Units())
    chosen = METHODS.get(kind)
    method = chosen(space, chosen.schedule(0.5, 0.2, 1.0), **options)
    method.advance(0.1)
    assert int(kept_at_present(method).sum()) == len(space)
    method.advance(progress)
    KeptUnitsFile(tmp_path / "pruned.jsonl", method).on_log(SimpleNamespace(output_dir="prune"), STATE, None)
    kept = json.loads((tmp_path / "pruned.jsonl").read_text().splitlines()[-1])["kept"]
    logged = method.log_values()
    assert sum(kept.values()) == logged.get("kept", logged.get("share", 0.0) * len(space))
    assert kept == {name: int(kept_at_present(method)[units].sum()) for name, units in space.slices.items()}


def test_the_subset_is_the_highest_scores_though_faithful_evaluations_are_samples():
    space = Space(tiny("bert"), "head", budget=Units())
    kind = METHODS.get("subset")
    method = kind(space, kind.schedule(0.5, 0.0, 1.0), faithful=True, seed=0)
    method.advance(0.01)
    assert bool((method.eval().masks() > 0).all()), "every relaxed gate is open a little"
    kept = kept_at_present(method)
    assert int(kept.sum()) == method.count < len(space)
    assert method.scores()[kept].min() > method.scores()[~kept].max()
