"""Laws 2 and 3 on a GPU: a cut model gives what the masked one gives, up to rounding, and stores what is counted."""

import pytest
import torch
from law_assertions import assert_counted_equals_stored, assert_cut_equals_masked
from tiny_models import LEADING, UNIT_SETS, edge_cases, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan


@pytest.mark.parametrize("which", LEADING)
def test_cut_equals_masked(which, dtype, device):
    model = tiny(*which, dtype=dtype).to(device)
    for units in UNIT_SETS:
        space = Space(model, *units)
        assert_cut_equals_masked(model, Plan.of(space, random_masks(space, density=0.8, soft=True)))


@pytest.mark.parametrize("which", LEADING)
def test_every_way_in_which_units_are_dead(which, dtype, device):
    kind, _, shape = which
    model, plan, masks = edge_cases(kind, shape, soft=True, dtype=dtype)
    model.to(device)
    for attention, padded in (("sdpa", True), ("sdpa", False), ("eager", True)):
        model.set_attn_implementation(attention)
        assert_cut_equals_masked(model, plan, masks, batches=[inputs(model, padded=padded)])


@pytest.mark.parametrize("which", LEADING)
def test_counted_equals_stored(which, device):
    model = tiny(*which, dtype=torch.float32).to(device)
    for units in UNIT_SETS:
        space = Space(model, *units)
        assert_counted_equals_stored(model, Plan.of(space, random_masks(space, 0.3, soft=True)))
