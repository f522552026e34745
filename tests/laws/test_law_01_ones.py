"""Law 1: masks of all ones change nothing, neither outputs nor hidden states."""

import pytest
import torch
from tiny_models import MODELS, MONOTONE, UNIT_SETS, inputs, outputs, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.surgery.masking import attached


def assert_same(model, space, masks):
    batch = inputs(model)
    stock, stock_states = outputs(model, batch)
    with attached(model, space, masks):
        masked, masked_states = outputs(model, batch)
    for name, tensor in stock.items():
        torch.testing.assert_close(masked[name], tensor, rtol=0, atol=1e-12, msg=name)
    for mine, theirs in zip(masked_states, stock_states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("units", UNIT_SETS, ids="-".join)
@pytest.mark.parametrize("which", MODELS)
def test_ones_change_nothing(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    assert_same(model, space, space.ones())
    assert space.parameters(space.ones(), "model") == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("units", UNIT_SETS, ids="-".join)
def test_a_method_before_its_schedule_changes_nothing(name, units):
    model = tiny("bert")
    space = Space(model, *units)
    method = METHODS.get(name)(space).eval()
    assert bool((method.masks() == 1.0).all())
    assert_same(model, space, method.masks)
