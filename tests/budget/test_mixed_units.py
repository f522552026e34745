"""Large units beside small ones: no unit that is left out fits into the density, or it is refused at the door."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from room_left import assert_nothing_fits
from space_world import bert

from secateur import methods
from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.methods.scheduled import Scheduled
from secateur.system.errors import UserError

LARGE, SMALL = ("layer", "sublayer", "head", "hidden"), ("ffn", "qk", "vo")

SCHEDULED = [name for name, kind in methods.METHODS.all().items() if issubclass(kind, Scheduled)]


@cache
def space_of(units, layers=4):
    return Space(bert(num_hidden_layers=layers), *units)


@st.composite
def mixes(draw):
    """Units of which at least one is small in every sublayer, in any order, with large ones among them."""
    large = draw(st.lists(st.sampled_from(LARGE), min_size=1, unique=True))
    small = draw(st.sampled_from([("ffn", "vo"), ("ffn", "vo", "qk")]))
    return tuple(draw(st.permutations([*large, *small])))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    units=mixes(),
    density=st.floats(0.03, 1.0),
    seed=st.integers(0, 2**32 - 1),
    bias=st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_no_unit_that_is_left_out_fits(units, density, seed, bias):
    """Whatever the scores are, also where all large units rank below all small ones, or above them."""
    space = space_of(units)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(seed)) + bias * space.large
    kept = space.choose(scores, density)
    assert 0 < space.density(kept) <= density + 1e-12
    assert_nothing_fits(space, kept, density)
    assert torch.equal(space.closure(kept), kept)
    open_units = space.leading(scores, density)
    assert torch.equal(space.closure(open_units), kept)


@pytest.mark.parametrize("units", [("layer", "ffn", "vo"), ("ffn", "vo"), ("ffn", "qk", "vo")], ids="-".join)
def test_dims_that_bring_too_much_back_are_skipped(units):
    """The VO dims rank first, and the first of a head brings its queries back: a neuron fits, and they do not."""
    space = space_of(units)
    kinds = {"vo": 3.0, "qk": 4.0, "layer": 2.0, "ffn": 1.0}
    scores = torch.cat([torch.full((group.size,), kinds[group.kind]) for group in space.groups])
    kept = space.choose(scores, 0.03)
    assert 0 < space.density(kept) <= 0.03
    assert_nothing_fits(space, kept, 0.03)


def test_closed_networks_are_opened_where_there_is_room_for_their_neurons():
    """CoFi's gates close all of them, and three heads leave room that no head fits into."""
    space = space_of(("head", "sublayer", "ffn"))
    method = methods.METHODS.get("cofi")(space, 0.05)
    with torch.no_grad():
        for group, gates in space.by_group(method.log_alpha):
            gates.copy_(torch.linspace(1.0, 2.0, len(gates)) * (-1.0 if group.name.endswith("mlp") else 1.0))
    plan = method.plan(0.2)
    heads = sum(int(plan.kept[rows].sum()) for name, rows in space.slices.items() if name.endswith("head"))
    assert heads > 0
    assert_nothing_fits(space, plan.kept, 0.2)


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize(
    "units", [("layer", "ffn", "qk", "vo"), ("ffn", "head"), ("vo", "layer", "ffn", "qk")], ids="-".join
)
@pytest.mark.parametrize("density", [0.05, 0.3])
def test_a_schedule_reaches_its_density(name, units, density):
    """Where every layer ranks last, a schedule that removed them one after the other would leave nothing."""
    space = space_of(units)
    kind = methods.METHODS.get(name)
    method = kind(space, density=kind.schedule(density, 0.0, 1.0))
    method.scores = lambda: torch.where(space.large, 0.0, 1.0) + torch.linspace(0.0, 0.1, len(space))
    for step in range(1, 41):
        before = method.alive.clone()
        method.advance(step / 40)
        assert not (method.alive & ~before).any()
    plan = method.plan(density)
    assert 0 < plan.achieved["prunable"] <= density + 1e-12
    assert_nothing_fits(space, plan.kept, density)


def test_a_large_unit_goes_as_long_as_enough_is_left_without_it():
    """Heads rank last here: they are removed one by one, and neurons only where a head would be too much."""
    space = space_of(("head", "ffn"))
    scores = torch.where(space.large, 0.0, 1.0) + torch.linspace(0.0, 0.1, len(space))
    kept = space.choose(scores, 0.9)
    heads, neurons = kept[space.large], kept[~space.large]
    assert int((~heads).sum()) > 0 and int((~neurons).sum()) < int(space.unit_cost().max() / space.unit_cost().min())


def test_small_units_alone_are_a_prefix_of_the_ranking():
    space = space_of(SMALL)
    assert not space.large.any()
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(3))
    kept = space.choose(scores, 0.3)
    assert torch.equal(kept, space.closure(scores >= scores[kept].min()))


@pytest.mark.parametrize("units", [("layer",), ("layer", "head")], ids="-".join)
def test_a_density_that_leaves_nothing_is_refused(units):
    """Heads leave the feed-forward networks of their layer, so that no layer fits into a tenth."""
    with pytest.raises(UserError, match=r"0\.1 of the parameters is out of reach: .* leaves nothing of the layers"):
        Magnitude(space_of(units, layers=2)).plan(0.1)


def test_a_plan_that_leaves_nothing_is_an_error():
    """The published ranking of GRAIN removes what is below its share, whatever is left."""
    method = methods.METHODS.get("grain")(space_of(("ffn", "qk", "vo")), faithful=True)
    method.alive.fill_(False)
    with pytest.raises(UserError, match="leaves nothing of the layers"):
        method.plan(0.05)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("rising", [True, False])
def test_of_large_units_the_best_are_kept_wherever_the_ranking_ends(density, rising):
    """Dims of the stream rank above all neurons; where not all of them fit, those of the highest scores are left."""
    space = space_of(("hidden", "ffn"))
    rows = space.slices["hidden"]
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    scores[rows] = 1.0 + torch.linspace(0.0, 1.0, rows.stop - rows.start).flip(0 if not rising else ())
    kept = space.choose(scores, density)[rows]
    count = int(kept.sum())
    assert torch.equal(kept, scores[rows] >= scores[rows].sort(descending=True).values[count - 1])
    assert count < len(kept) or density > 0.5
