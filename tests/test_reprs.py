"""Objects of the public surface say what they are in one line."""

import pytest
import torch
from small_world import write_data
from tiny_models import tiny

import secateur as sec
from secateur.methods import METHODS
from secateur.tasks import TASKS
from secateur.tasks.task import Task


def test_spaces_methods_and_plans():
    space = sec.Space(tiny("bert", "ForSequenceClassification"), "ffn", "head")
    ffn, heads = (sum(group.size for group in space.groups if group.kind == kind) for kind in ("ffn", "head"))
    of_space = f"Space(bert: {ffn:,} ffn, {heads} head in {len(space.groups)} groups)"
    assert repr(space) == of_space
    method = sec.Grain(space, sec.cubic(1.0, 0.4, begin=0.2, end=0.4))
    assert repr(method).startswith(
        "Grain(Schedule(curve='cubic', start=1.0, stop=0.4, begin=0.2, end=0.4), progress 0.00"
    )
    assert repr(method).endswith(f"{len(space)} of {len(space)} units alive, {of_space})")
    plan = sec.Magnitude(space).plan(0.7)
    kept = int((plan.masks > 0).sum())
    assert repr(plan).startswith(f"Plan(bert by magnitude: keeps {kept} of {len(space)} units (ffn, head), density 0.")
    assert repr(plan).endswith("asked for 0.7)")


def test_tasks(tmp_path):
    task = TASKS.get("classification").from_data(str(write_data(tmp_path / "d.csv")))
    assert repr(task) == "Classification(36 train, 4 validation rows, accuracy, labels bad, good)"


@pytest.mark.parametrize("name", [name for name, task in TASKS.all().items() if task.__module__.startswith("secateur")])
def test_every_task_is_printed_in_one_line(name):
    assert TASKS.get(name).__repr__ is Task.__repr__


@pytest.mark.parametrize("name", METHODS.all())
def test_every_method_says_what_it_is(name):
    space = sec.Space(tiny("bert", dtype=torch.float32), "ffn")
    method = METHODS.get(name)(space, 0.7)
    said, units = repr(method), f"{len(space)} of {len(space)} units alive, {space!r})"
    assert said.startswith(f"{METHODS.get(name).__name__}(") and said.endswith(f", progress 0.00, {units}")
    assert "\n" not in said and repr(method.share_schedule) in said
