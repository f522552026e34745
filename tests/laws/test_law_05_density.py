"""Law 5: a method reaches its density, such that no unit that is left out fits, or it is refused at the door.

The refusal names the floor. A density into which no unit fits is refused as well: a model with nothing left is never
the result, whatever the scores and the mix of units are.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from room_left import assert_nothing_fits, nothing
from tiny_models import CLASSIFIERS, METHODS, UNIT_SETS, covering, random_masks, taught, tiny

from secateur import methods
from secateur.budget.space import Space
from secateur.system.errors import UserError
from secateur.system.quantities import at_least

SETS = (*UNIT_SETS, ("vo",))


@cache
def space_of(which, units):
    return Space(tiny(*which), *units)


@cache
def informed(which, units, name):
    """A method that has observed gradients and has removed nothing."""
    return taught(name, space_of(which, units), density=1.0, steps=1)


@pytest.mark.parametrize(("which", "units", "name"), covering(CLASSIFIERS, SETS, METHODS))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(density=st.floats(0.0, 1.0, exclude_min=True))
def test_reached_or_refused(which, units, name, density):
    """Over cases in which any method meets any model and any units, and any units meet any model."""
    space, method = space_of(which, units), informed(which, units, name)
    if density < space.floor():
        with pytest.raises(UserError, match=rf"out of reach.*{at_least(space.floor(), '.4f')}"):
            method.plan(density)
        return
    try:
        plan = method.plan(density)
    except UserError as error:
        assert "leaves nothing of the layers" in str(error)
        assert_nothing_fits(space, nothing(space), density)
        return
    achieved = plan.achieved["prunable"]
    assert plan.asked == density
    assert achieved == space.density(plan.kept)
    assert achieved <= density + 1e-12
    assert achieved > 0
    assert_nothing_fits(space, plan.kept, density)


MIXES = (
    ("layer", "ffn", "vo"),
    ("layer", "ffn", "qk", "vo"),
    ("layer", "head"),
    ("head", "sublayer", "ffn"),
    ("layer", "sublayer", "head", "ffn"),
    ("hidden", "head", "sublayer", "ffn"),
)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("units", MIXES, ids="-".join)
@pytest.mark.parametrize("which", ["bert", "t5"])
def test_whatever_the_units_and_the_scores_are(which, units, name):
    """After a whole schedule of random evidence; what is refused is refused before it, and no smaller model exists."""
    space = space_of((which,), units)
    for density in (0.03, 0.25):
        try:
            space.check_something_fits(density)
        except UserError:
            assert_nothing_fits(space, nothing(space), density)
            with pytest.raises(UserError, match="out of reach"):
                methods.METHODS.get(name)(space).plan(density)
            continue
        method = taught(name, space, density, steps=4)
        plan = method.plan(density)
        assert 0 < plan.achieved["prunable"] <= density + 1e-12
        if method.monotone:  # units that were removed do not return, however the evidence has changed since
            assert density - plan.achieved["prunable"] < least_of_the_large(space)
        else:
            assert_nothing_fits(space, plan.kept, density)


def least_of_the_large(space):
    """The density of the smallest of the units that are larger than others; of all units if they are alike."""
    cost = space.unit_cost()
    return float((cost[space.large] if bool(space.large.any()) else cost[cost > 0]).min()) / space.total()


@pytest.mark.parametrize("units", SETS, ids="-".join)
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_no_plan_is_below_the_floor(which, units):
    space = space_of(which, units)
    for seed in range(5):
        assert space.density(random_masks(space, 0.05, seed=seed)) >= space.floor()
    if space.floor() > 0:
        kept = space.choose(torch.rand(len(space)), space.floor())
        assert space.density(kept) == pytest.approx(space.floor(), abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_a_density_that_heads_alone_cannot_reach_is_refused(which, name):
    space = space_of(which, ("head",))
    floor = space.floor()
    assert 0.2 < floor < 0.8
    for ask in (methods.METHODS.get(name)(space).plan, lambda density: methods.METHODS.get(name)(space, density)):
        with pytest.raises(UserError, match=rf"pruning only head leaves at least {at_least(floor, '.4f')}"):
            ask(floor / 2)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_a_density_is_a_fraction(which, name, density):
    with pytest.raises(UserError, match=r"not in \(0, 1\]"):
        methods.METHODS.get(name)(space_of(which, ("ffn",))).plan(density)
