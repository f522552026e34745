"""Law 1 on a GPU: masks of all ones change nothing beyond rounding."""

import pytest
import torch
from law_assertions import assert_ones_change_nothing
from tiny_models import LEADING, MONOTONE, UNIT_SETS, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS


@pytest.mark.parametrize("which", LEADING)
def test_ones_change_nothing(which, dtype, device):
    model = tiny(*which, dtype=dtype).to(device)
    for units in UNIT_SETS:
        space = Space(model, *units)
        assert_ones_change_nothing(model, space, space.ones())


@pytest.mark.parametrize("name", MONOTONE)
def test_a_method_before_its_schedule_changes_nothing(name, device):
    model = tiny("bert", dtype=torch.float32).to(device)
    space = Space(model, *UNIT_SETS[-1])
    method = METHODS.get(name)(space).to(device).eval()
    assert method.masks().device == model.device and bool((method.masks() == 1.0).all())
    assert_ones_change_nothing(model, space, method.masks)
