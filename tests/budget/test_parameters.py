"""The parameter budget: which units are kept at a density, filled up and rounded."""

import pytest
import torch
from space_world import FFN, HIDDEN, LAYERS, bert, removed_units, without

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import rounded
from secateur.budget.space import Space
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def dims(model):
    """FFN neurons, QK dims and VO dims."""
    return Space(model, "ffn", "qk", "vo")


# Keep: the best units at a density


def test_keep_is_the_longest_prefix_of_the_ranking_that_fits(dims):
    noise = torch.Generator().manual_seed(0)
    for density in (0.05, 0.1, 0.35, 0.8):
        scores = torch.rand(len(dims), generator=noise)
        prefixes = [dims.closure(scores >= least) for least in scores.sort().values]
        kept = dims.choose(scores, density)
        assert torch.equal(kept, next(prefix for prefix in prefixes if dims.density(prefix) <= density))


def test_keep_refills_what_closure_frees(dims):
    """QK dims score best, but their heads have no VO dims and die: FFN neurons take their place."""
    scores = torch.cat([torch.full((g.size,), {"qk": 3.0, "ffn": 2.0, "vo": 1.0}[g.kind]) for g in dims.groups])
    kept = dims.choose(scores, 0.2)
    neurons = int(kept.sum())
    assert removed_units(dims, kept).keys() >= {"0.qk", "1.qk", "0.vo", "1.vo"}
    assert neurons * (2 * HIDDEN + 1) <= 0.2 * dims.total() < (neurons + 1) * (2 * HIDDEN + 1)


def test_keep_everything_at_density_one(dims):
    assert bool(dims.choose(dims.ones(), 1.0).all())


def test_keep_revives_nothing(dims):
    alive = without(dims, "0.ffn", ("0.qk", slice(0, 3)))
    scores = alive.logical_not().float()  # the removed units would be the best
    kept = dims.choose(scores, 0.9, alive=alive)
    assert bool((kept <= alive).all()) and bool(kept.any())


def test_keep_puts_units_without_a_score_last(dims):
    scores = dims.ones()
    scores[dims.slices["0.ffn"]] = float("nan")
    assert removed_units(dims, dims.choose(scores, 1 - FFN * (2 * HIDDEN + 1) / dims.total())) == {
        "0.ffn": list(range(FFN))
    }


def test_one_hidden_dim_stays(model):
    space = Space(model, "hidden", "ffn", "qk", "vo")
    scores = space.ones()
    scores[space.slices["hidden"]] = torch.arange(HIDDEN).float() - 100
    kept = space.choose(scores, 0.01)
    assert kept[space.slices["hidden"]].nonzero().flatten().tolist() == [HIDDEN - 1]


def test_a_density_below_the_floor_is_refused_by_name(model):
    space = Space(model, "head")
    floor = FFN * (2 * HIDDEN + 1) * LAYERS / space.total()
    assert space.floor() == floor
    assert space.density(space.choose(space.ones(), floor)) == floor
    with pytest.raises(
        UserError, match=rf"out of reach: pruning only head leaves at least {floor:.4f}; raise .* or add"
    ):
        space.choose(space.ones(), floor - 0.01)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_that_is_no_fraction_is_refused(dims, density):
    with pytest.raises(UserError, match="fraction of parameters to keep"):
        dims.choose(dims.ones(), density)


# Filling


@pytest.mark.parametrize("density", [0.05, 0.3, 0.61, 1.0])
@pytest.mark.parametrize("names", [("ffn", "qk", "vo"), ("hidden", "head", "sublayer", "ffn")], ids="-".join)
def test_filled_is_full(model, names, density):
    """What was kept stays, the density is not passed, and no unit that would cost parameters fits any more."""
    space = Space(model, *names)
    noise = torch.Generator().manual_seed(0)
    kept = torch.rand(len(space), generator=noise) < 0.1
    if space.density(space.closure(kept)) > density:
        kept = torch.zeros_like(kept)
    filled = Parameters().add_fitting_units(space, kept, torch.rand(len(space), generator=noise), density)
    assert bool((filled | ~kept).all())
    assert space.density(space.closure(filled)) <= density + 1e-12
    before = space.parameters(space.closure(filled))
    for unit in (~filled).nonzero().flatten().tolist():
        more = space.parameters(space.closure(filled.index_fill(0, torch.tensor(unit), True)))
        assert more == before or float(more) / space.total() > density


def test_fill_prefers_the_higher_score(dims):
    scores = torch.arange(len(dims)).float()
    kept = without(dims, "0.ffn", "1.ffn")
    room = dims.density(kept) + 2.5 * float(dims.unit_cost()[0]) / dims.total()
    filled = Parameters().add_fitting_units(dims, kept, scores, room)
    assert removed_units(dims, filled) == {"0.ffn": list(range(FFN)), "1.ffn": list(range(FFN - 2))}


# Rounding


def sizes(space, kept):
    """Units kept of every part that has a size: a network, the stream, a head's QK or VO dims."""
    found = {}
    for group in space.groups:
        if group.kind in ("ffn", "qk", "vo", "hidden"):
            parts = space.table.heads if group.kind in ("qk", "vo") else 1
            found[group.name] = kept[space.slices[group.name]].view(parts, -1).sum(dim=1).tolist()
    return found


ROUNDED = (("ffn", "qk", "vo"), ("ffn", "head"), ("hidden", "ffn", "vo", "sublayer"))


@pytest.fixture(scope="module")
def roomy():
    return bert(hidden_size=16, intermediate_size=21)


@pytest.mark.parametrize("names", ROUNDED, ids="-".join)
@pytest.mark.parametrize("density", [0.1, 0.3, 0.45, 0.8, 1.0])
def test_rounded_sizes_are_multiples_or_whole(roomy, names, density):
    space = Space(roomy, *names, round_to=4)
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
def test_rounding_adds_the_best_to_the_longest_prefix_that_fits(roomy, density):
    """What a lower density keeps without rounding stays kept, and not one unit more of the ranking would fit."""
    plain, space = Space(roomy), Space(roomy, round_to=4)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(1))
    kept, order = space.choose(scores, density), scores.argsort(descending=True)

    def prefix(count):
        return plain.closure(torch.zeros(len(plain), dtype=torch.bool).index_fill(0, order[:count], True))

    count = max(n for n in range(len(space)) if bool((prefix(n) <= kept).all()))
    assert torch.equal(rounded(space, prefix(count), scores, 4), kept)
    assert space.density(rounded(space, prefix(count + 1), scores, 4)) > density
    for name, rows in space.slices.items():
        parts = space.table.heads if not name.endswith("ffn") else 1
        own, ranked = kept[rows].view(parts, -1), scores[rows].view(parts, -1)
        revived = own & ~prefix(count)[rows].view(parts, -1)
        for mine, back, score in zip(own, revived, ranked, strict=True):
            assert not back.any() or mine.all() or score[back].min() > score[~mine].max()


def test_rounding_revives_no_unit_that_is_removed_units(roomy):
    space = Space(roomy, round_to=4)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    alive = space.choose(scores, 0.6)
    kept = space.choose(scores.flip(0), 0.4, alive=alive)
    assert not bool((kept & ~alive).any()) and bool(kept.any())
    odd = alive.clone()
    odd[space.slices["0.ffn"]] = torch.arange(21) < 7
    assert sizes(space, space.choose(scores, 1.0, alive=odd))["0.ffn"] == [7], "all that is alive"


def test_rounding_to_1_changes_nothing(roomy):
    scores = torch.rand(len(Space(roomy)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Space(roomy).choose(scores, 0.3), Space(roomy, round_to=1).choose(scores, 0.3))
    with pytest.raises(UserError, match="round_to 0 is below 1"):
        Space(roomy, round_to=0)
