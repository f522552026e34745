"""The parameter budget: the units kept at a density, the units added where they fit, and rounded sizes."""

import re

import pytest
import torch
from space_world import FFN, HIDDEN, LAYERS, bert, removed_units, without

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import TOLERANCE, longest_prefix, rounded
from secateur.budget.space import Space
from secateur.system.errors import UserError
from secateur.system.quantities import at_least


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def dims(model):
    """FFN neurons, QK dims and VO dims."""
    return Space(model, "ffn", "qk", "vo")


# The units kept at a density


def test_the_longest_prefix_of_the_ranking_that_fits_is_kept(dims):
    noise = torch.Generator().manual_seed(0)
    for density in (0.05, 0.1, 0.35, 0.8):
        scores = torch.rand(len(dims), generator=noise)
        prefixes = [dims.closure(scores >= least) for least in scores.sort().values]
        kept = dims.choose(scores, density)
        assert torch.equal(kept, next(prefix for prefix in prefixes if dims.density(prefix) <= density))


def test_units_that_are_dead_because_of_others_leave_room_for_the_next_in_rank(dims):
    """QK dims score best, but their heads have no VO dims and are dead: FFN neurons are kept in their place."""
    scores = torch.cat([torch.full((g.size,), {"qk": 3.0, "ffn": 2.0, "vo": 1.0}[g.kind]) for g in dims.groups])
    kept = dims.choose(scores, 0.2)
    neurons = int(kept.sum())
    assert removed_units(dims, kept).keys() >= {"0.qk", "1.qk", "0.vo", "1.vo"}
    assert neurons * (2 * HIDDEN + 1) <= 0.2 * dims.total() < (neurons + 1) * (2 * HIDDEN + 1)


def test_all_units_are_kept_at_density_one(dims):
    assert bool(dims.choose(dims.ones(), 1.0).all())


def test_a_unit_that_is_not_alive_is_never_kept(dims):
    alive = without(dims, "0.ffn", ("0.qk", slice(0, 3)))
    scores = alive.logical_not().float()  # the removed units would be the best
    kept = dims.choose(scores, 0.9, alive=alive)
    assert bool((kept <= alive).all()) and bool(kept.any())


def test_units_without_a_score_rank_last(dims):
    scores = dims.ones()
    scores[dims.slices["0.ffn"]] = float("nan")
    assert removed_units(dims, dims.choose(scores, 1 - FFN * (2 * HIDDEN + 1) / dims.total())) == {
        "0.ffn": list(range(FFN))
    }


def test_at_least_one_hidden_dim_is_kept(model):
    space = Space(model, "hidden", "ffn", "qk", "vo")
    scores = space.ones()
    scores[space.slices["hidden"]] = torch.arange(HIDDEN).float() - 100
    kept = space.choose(scores, 0.01)
    assert kept[space.slices["hidden"]].nonzero().flatten().tolist() == [HIDDEN - 1]


def test_a_density_below_the_floor_is_refused_with_the_floor(model):
    space = Space(model, "head")
    floor = FFN * (2 * HIDDEN + 1) * LAYERS / space.total()
    assert space.floor() == floor
    assert space.density(space.choose(space.ones(), floor)) == floor
    with pytest.raises(
        UserError,
        match=rf"out of reach: pruning only head leaves at least {at_least(floor, '.4f')}; raise the density or add "
        "units from ffn, sublayer, layer, hidden$",
    ):
        space.choose(space.ones(), floor - 0.01)


@pytest.mark.parametrize("units", [("head",), ("ffn",), ("qk",), ("vo", "qk")])
def test_the_floor_that_a_refusal_names_is_accepted(model, units):
    space = Space(model, *units)
    with pytest.raises(UserError, match="out of reach") as refused:
        space.budget.check(space, 0.001)
    space.budget.check(space, float(re.search(r"at least ([\d.]+);", str(refused.value))[1]))


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_outside_0_to_1_is_refused(dims, density):
    with pytest.raises(UserError, match="fraction of parameters to keep"):
        dims.choose(dims.ones(), density)


# Adding units that fit


@pytest.mark.parametrize("density", [0.05, 0.3, 0.61, 1.0])
@pytest.mark.parametrize("names", [("ffn", "qk", "vo"), ("hidden", "head", "sublayer", "ffn")], ids="-".join)
def test_no_further_unit_fits_after_fitting_units_are_added(model, names, density):
    """Kept units stay, the density is not exceeded, and no further unit that costs parameters fits."""
    space = Space(model, *names)
    noise = torch.Generator().manual_seed(0)
    kept = space.closure(torch.rand(len(space), generator=noise) < 0.1)
    if not 0 < space.density(kept) <= density:
        kept = torch.zeros_like(kept)
    filled = Parameters().add_fitting_units(space, kept, torch.rand(len(space), generator=noise), density)
    assert bool((filled | ~kept).all())
    assert space.density(space.closure(filled)) <= density + 1e-12
    before = space.parameters(space.closure(filled))
    for unit in (~filled).nonzero().flatten().tolist():
        more = space.parameters(space.closure(filled.index_fill(0, torch.tensor(unit), True)))
        assert more == before or float(more) / space.total() > density


def test_of_the_fitting_units_the_highest_scored_are_added(dims):
    scores = torch.arange(len(dims)).float()
    kept = without(dims, "0.ffn", "1.ffn")
    room = dims.density(kept) + 2.5 * float(dims.unit_cost()[0]) / dims.total()
    filled = Parameters().add_fitting_units(dims, kept, scores, room)
    assert removed_units(dims, filled) == {"0.ffn": list(range(FFN)), "1.ffn": list(range(FFN - 2))}


# Rounding


def sizes(space, kept):
    """Units kept of every part with a size: a network, the residual stream, the QK or VO dims of a head."""
    found = {}
    for group in space.groups:
        if group.kind in ("ffn", "qk", "vo", "hidden"):
            parts = space.table.heads if group.kind in ("qk", "vo") else 1
            found[group.name] = kept[space.slices[group.name]].view(parts, -1).sum(dim=1).tolist()
    return found


ROUNDED = (("ffn", "qk", "vo"), ("ffn", "head"), ("hidden", "ffn", "vo", "sublayer"))


@pytest.fixture(scope="module")
def larger_model():
    return bert(hidden_size=16, intermediate_size=21)


@pytest.mark.parametrize("names", ROUNDED, ids="-".join)
@pytest.mark.parametrize("density", [0.1, 0.3, 0.45, 0.8, 1.0])
def test_rounded_sizes_are_multiples_or_the_unpruned_size(larger_model, names, density):
    space = Space(larger_model, *names, round_to=4)
    if density < space.floor():
        with pytest.raises(UserError, match="out of reach"):
            space.choose(space.ones(), density)
        return
    kept = space.choose(torch.rand(len(space), generator=torch.Generator().manual_seed(0)), density)
    whole = {name: parts[0] for name, parts in sizes(space, space.ones().bool()).items()}
    for name, parts in sizes(space, kept).items():
        assert all(size % 4 == 0 or size == whole[name] for size in parts)
    assert space.density(kept) <= density
    assert torch.equal(space.closure(kept), kept)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_rounding_adds_the_best_to_the_longest_prefix_that_fits(larger_model, density):
    """The longest prefix of the ranking that fits when it is rounded is kept, with what still fits beside it."""
    plain, space = Space(larger_model), Space(larger_model, round_to=4)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(1))
    kept, order = space.choose(scores, density), scores.argsort(descending=True)

    def prefix(count):
        return plain.closure(torch.zeros(len(plain), dtype=torch.bool).index_fill(0, order[:count], True))

    count = max(n for n in range(len(space)) if space.density(rounded(space, prefix(n), scores, 4)) <= density)
    assert bool((rounded(space, prefix(count), scores, 4) <= kept).all())
    for unit in (~kept).nonzero().flatten():
        more = rounded(space, kept.index_fill(0, unit, True), scores, 4)
        assert torch.equal(more, kept) or space.density(more) > density
    for name, rows in space.slices.items():
        parts = space.table.heads if not name.endswith("ffn") else 1
        own, ranked = kept[rows].view(parts, -1), scores[rows].view(parts, -1)
        revived = own & ~prefix(count)[rows].view(parts, -1)
        for mine, back, score in zip(own, revived, ranked, strict=True):
            assert not back.any() or mine.all() or score[back].min() > score[~mine].max()


def test_rounding_never_keeps_a_unit_that_is_not_alive(larger_model):
    space = Space(larger_model, round_to=4)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    alive = space.choose(scores, 0.6)
    kept = space.choose(scores.flip(0), 0.4, alive=alive)
    assert not bool((kept & ~alive).any()) and bool(kept.any())
    odd = alive.clone()
    odd[space.slices["0.ffn"]] = torch.arange(21) < 7
    assert sizes(space, space.choose(scores, 1.0, alive=odd))["0.ffn"] == [7], "all that is alive"


def test_rounding_to_1_changes_nothing(larger_model):
    scores = torch.rand(len(Space(larger_model)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Space(larger_model).choose(scores, 0.3), Space(larger_model, round_to=1).choose(scores, 0.3))
    with pytest.raises(UserError, match="round_to 0 is not a whole number from 1"):
        Space(larger_model, round_to=0)


def test_the_longest_prefix_is_found_from_any_guess():
    shares = [0.1 * (count // 2) for count in range(12)]  # units that are dead because of others cost nothing
    for amount in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0):
        expected = max(count for count, share in enumerate(shares) if share <= amount + TOLERANCE)
        for near in (None, *range(len(shares) + 2)):
            assert longest_prefix(lambda count: shares[count], len(shares) - 1, amount, near) == expected


def test_soft_masks_have_the_density_of_their_expected_count():
    space = Space(bert(), "ffn", "vo", "attention/4x4", "head")
    masks = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    for scope in ("prunable", "layers", "model"):
        assert space.density(masks, scope) == pytest.approx(float(space.parameters(masks, scope)) / space.total(scope))


@pytest.mark.parametrize("units", [("qk", "vo", "ffn"), ("layer", "head", "ffn"), ("ffn", "hidden", "head")])
def test_something_fits_where_the_smallest_unit_does(model, units):
    """Whatever stands first in the space: the first dims of values return with all dims of their queries."""
    space = Space(model, *units)
    kept = space.ones() * 0
    kept[space.slices["0.ffn"]][0] = 1
    for name in ("0.layer", "hidden"):
        if name in space.slices:
            kept[space.slices[name]][0] = 1
    least = space.density(kept)
    assert least > 0
    space.check_something_fits(least * 1.01)
    with pytest.raises(UserError, match="leaves nothing of the layers"):
        space.check_something_fits(least * 0.3)
