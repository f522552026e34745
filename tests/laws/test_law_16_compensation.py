"""Law 16: compensation changes nothing where nothing is removed, and never makes a sublayer's output worse."""

import copy

import pytest
import torch
from tiny_models import LEADING, inputs, outputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.compensation import compensate
from secateur.surgery.cut import cut


def batches(model, count=40):
    return [inputs(model, seed=seed) for seed in range(count)]


def refitted(which, density, *units):
    """A model, its plan, its cut, and the same cut refitted."""
    model = tiny(*which)
    space = Space(model, *units)
    plan = Plan.of(space, random_masks(space, density))
    small = cut(model, plan)
    again = copy.deepcopy(small)
    return model, small, again, compensate(again, model, plan, batches(model))


@pytest.mark.parametrize("which", LEADING)
def test_nothing_changes_where_nothing_is_removed(which):
    _, small, again, done = refitted(which, 1.1, "head", "ffn")
    assert done == []
    for (name, before), after in zip(small.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after), name


@pytest.mark.parametrize("which", LEADING)
def test_every_linear_that_lost_inputs_is_refitted_and_none_gets_worse(which):
    model, _, again, done = refitted(which, 0.6, "head", "ffn")
    space = Space(model, "head", "ffn")
    assert [one.path for one in done if one.before < one.after] == []
    lost = {row.path for row in space.table.rows if getattr(row, "into", None) in {*again.plan["groups"]}}
    assert len(done) >= max(1, len(lost))
    assert min(one.after / one.before for one in done if one.before > 1e-5) < 0.9


def test_the_output_comes_nearer_to_that_of_the_model_before():
    model, small, again, _ = refitted(LEADING[0].values[0], 0.6, "head", "ffn")
    batch = inputs(model, seed=99)
    true, plain, repaired = (
        outputs(one, batch)[1][-1][batch["attention_mask"].bool()] for one in (model, small, again)
    )
    assert (repaired - true).square().mean() < 0.8 * (plain - true).square().mean()


def test_soft_masks_and_a_cut_residual_stream_are_refitted_to_the_dims_that_are_left():
    model = tiny("bert")
    space = Space(model, "hidden", "ffn")
    plan = Plan.of(space, random_masks(space, 0.7, soft=True))
    small = cut(model, plan)
    done = compensate(small, model, plan, batches(model))
    assert done and all(one.after <= one.before for one in done)
