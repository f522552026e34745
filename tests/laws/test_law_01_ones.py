"""Law 1: masks of all ones change nothing, neither outputs nor hidden states."""

import pytest
from law_assertions import assert_ones_change_nothing
from tiny_models import IN_UNITS, MONOTONE, UNIT_SETS, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS


@pytest.mark.parametrize(("which", "units"), IN_UNITS)
def test_ones_change_nothing(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    assert_ones_change_nothing(model, space, space.ones())
    assert space.parameters(space.ones(), "model") == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("units", UNIT_SETS, ids="-".join)
def test_a_method_before_its_schedule_changes_nothing(name, units):
    model = tiny("bert")
    space = Space(model, *units)
    method = METHODS.get(name)(space).eval()
    assert bool((method.masks() == 1.0).all())
    assert_ones_change_nothing(model, space, method.masks)
