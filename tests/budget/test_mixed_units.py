"""Large units beside small ones: the density is reached to within a small unit, or refused before anything starts."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from space_world import bert

from secateur import methods
from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.structure.plan import Plan
from secateur.system.errors import UserError

LARGE, SMALL = ("layer", "sublayer", "head", "hidden"), ("ffn", "qk", "vo")
SEED = st.integers(0, 2**32 - 1)


@cache
def space_of(units, layers=4):
    return Space(bert(num_hidden_layers=layers), *units)


@st.composite
def mixes(draw):
    """Units of which at least one is small in every sublayer, in any order, with large ones among them."""
    large = draw(st.lists(st.sampled_from(LARGE), min_size=1, unique=True))
    small = draw(st.sampled_from([("ffn", "vo"), ("ffn", "vo", "qk")]))
    return tuple(draw(st.permutations([*large, *small])))


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(units=mixes(), density=st.floats(0.01, 1.0), seed=SEED, bias=st.sampled_from([-2.0, 0.0, 2.0]))
def test_a_density_is_reached_to_within_a_small_unit(units, density, seed, bias):
    """Whatever the scores are, also where all large units rank below all small ones or above them."""
    space = space_of(units)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(seed)) + bias * space.large
    if density < space.smallest:
        with pytest.raises(UserError, match=rf"out of reach.*at least {space.smallest:.4f}"):
            space.choose(scores, density)
        return
    kept = space.choose(scores, density)
    reached = space.density(kept)
    assert 0 < reached <= density + 1e-12
    assert density - reached <= small_step(space)
    assert torch.equal(space.closure(kept), kept)


def small_step(space):
    """What one small unit adds at most: the first VO dim of a head brings the head's QK dims back to life."""
    cost = space.unit_cost()
    revived = space.table.head_dim * 2 * (space.table.sizes["hidden"] + 1)
    return (float(cost[~space.large].max()) + revived) / space.total()


@pytest.mark.parametrize("name", ["grain", "magnitude", "random"])
@pytest.mark.parametrize("units", [("layer", "ffn", "qk", "vo"), ("ffn", "layer", "head")], ids="-".join)
def test_a_schedule_reaches_its_density(name, units):
    """Where every layer ranks last, a schedule that removed them one after the other would leave nothing."""
    space = space_of(units)
    method = methods.METHODS.get(name)(space, density=methods.schedules.cubic(1.0, 0.05, begin=0.0, end=1.0))
    method.scores = lambda: torch.where(space.large, 0.0, 1.0) + torch.linspace(0.0, 0.1, len(space))
    for step in range(1, 21):
        method.advance(step / 20)
    plan = method.plan(0.05)
    assert 0.05 - small_step(space) <= plan.achieved["prunable"] <= 0.05


def test_what_large_units_cannot_reach_is_refused_with_what_they_can():
    space = space_of(("layer", "head"), layers=2)
    smallest = space.smallest
    assert smallest == pytest.approx(space.density(space.choose(space.ones(), smallest)))
    with pytest.raises(
        UserError, match=rf"0\.1 is out of reach: pruning only layer, head leaves at least {smallest:.4f}"
    ):
        Magnitude(space, density=0.1)


def test_a_plan_that_leaves_nothing_is_an_error():
    """The published ranking of GRAIN removes what is below its share, whatever is left."""
    space = space_of(("layer", "ffn", "qk", "vo"))
    method = methods.METHODS.get("grain")(space, faithful=True)
    method.alive.fill_(False)
    with pytest.raises(UserError, match="would leave nothing of the layers"):
        method.plan(0.05)


def test_small_units_alone_are_a_prefix_of_the_ranking():
    space = space_of(SMALL)
    assert not space.large.any()
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(3))
    kept = space.choose(scores, 0.3)
    least = scores[kept].min()
    assert (
        torch.equal(kept, space.closure(scores >= least)) and Plan.of(space, kept.float()).achieved["prunable"] <= 0.3
    )
