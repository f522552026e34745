"""Law 5: a method reaches its density, to within one unit, or refuses and names the floor.

A density into which no unit fits is refused as well: a model with nothing left is never the result. Where large units
(layers) are mixed with small ones, a ranking reaches its density to within a small one (tests/budget/test_mixed_units).
"""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


@cache
def largest_step(space):
    """The most that keeping one more unit adds to the density.

    It is what the unit alone removes from the whole model, as its share shrinks with what else is removed;
    the first VO dim of a head also brings the head's QK dims back to life, and a tile all that lies on its indices
    in the other weights: in the attention that of its heads, of which none here is wider.
    """
    steps = [float(space.unit_cost().max())]
    for group in space.groups:
        if group.kind == "vo":
            none, first = space.ones(), space.ones()
            rows = space.slices[group.name]
            none[rows.start : rows.start + space.table.head_dim] = 0.0
            first[rows.start + 1 : rows.start + space.table.head_dim] = 0.0
            steps.append(float(space.parameters(first) - space.parameters(none)))
    for _, grid in space.tiled.values():
        inner = (grid.rows, grid.columns)[grid.inner]
        width = inner if grid.axis.endswith("ffn") else space.table.head_dim
        on_axis = [p for p in space.table.parameters if grid.axis in p.axes]
        share = width / space.table.sizes[grid.axis]
        steps.append((1 if grid.axis.endswith("ffn") else 2) * share * sum(math.prod(p.shape) for p in on_axis))
    return max(steps) / space.total()


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
        assert density < largest_step(space)
        return
    achieved = plan.achieved["prunable"]
    assert plan.asked == density
    assert achieved == space.density(plan.kept)
    assert achieved <= density + 1e-12
    assert density - achieved < largest_step(space)
    assert achieved > 0


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
