"""The space: which units die with others, what a unit costs, and which are kept at a density."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from secateur.structure.space import UNITS, Space
from secateur.system.errors import UserError

LAYERS, HEADS, HEAD_DIM, HIDDEN, FFN = 2, 2, 4, 8, 6


def bert(**sizes):
    config = BertConfig(
        **{
            "vocab_size": 20,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "intermediate_size": FFN,
            "max_position_embeddings": 8,
            **sizes,
        }
    )
    return BertForSequenceClassification(config)


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def dims(model):
    """FFN neurons, QK dims and VO dims."""
    return Space(model, "ffn", "qk", "vo")


@pytest.fixture(scope="module")
def everything(model):
    """Every kind at once."""
    return Space(model, *UNITS)


def without(space, *removed):
    """`(N,)` bool: all but whole groups (`"0.ffn"`) and parts of groups (`("0.vo", slice(0, 4))`)."""
    kept = space.ones().bool()
    for part in removed:
        group, units = part if isinstance(part, tuple) else (part, slice(None))
        kept[space.slices[group]][units] = False
    return kept


def gone(space, kept):
    """Group -> units that are not kept, for the groups that lost some."""
    lost = {name: (~kept[rows]).nonzero().flatten().tolist() for name, rows in space.slices.items()}
    return {name: units for name, units in lost.items() if units}


# The table of units


def test_units_lie_in_the_order_of_the_units(dims):
    assert list(dims.slices) == ["0.ffn", "1.ffn", "0.qk", "1.qk", "0.vo", "1.vo"]
    assert len(dims) == LAYERS * (FFN + 2 * HIDDEN) == dims.ones().numel()
    assert dims.slices["1.vo"].stop == len(dims)


def test_default_units_are_those_of_grain(model):
    assert Space(model).units == ("ffn", "qk", "vo")


@pytest.mark.parametrize("names", [("ffn", "heads"), ("ffn", "ffn")])
def test_unknown_or_repeated_units_are_refused(model, names):
    with pytest.raises(UserError, match="each at most once"):
        Space(model, *names)


# Closure: a unit that is dead because of others


def test_a_head_without_vo_dims_dies_with_its_qk_dims(dims):
    closed = dims.closure(without(dims, ("0.vo", slice(0, HEAD_DIM))))
    assert gone(dims, closed) == {"0.vo": [0, 1, 2, 3], "0.qk": [0, 1, 2, 3]}


def test_a_head_with_one_vo_dim_keeps_its_qk_dims(dims):
    kept = without(dims, ("0.vo", slice(1, HEAD_DIM)))
    assert torch.equal(dims.closure(kept), kept)


def test_a_head_without_qk_dims_lives(dims):
    kept = without(dims, ("0.qk", slice(0, HEAD_DIM)))
    assert torch.equal(dims.closure(kept), kept)


def test_a_removed_head_takes_its_dims_and_a_head_without_vo_dims_is_removed(model):
    space = Space(model, "head", "qk", "vo")
    dead = {"0.head": [1], "0.qk": [4, 5, 6, 7], "0.vo": [4, 5, 6, 7]}
    assert gone(space, space.closure(without(space, ("0.head", slice(1, 2))))) == dead
    assert gone(space, space.closure(without(space, ("0.vo", slice(4, 8))))) == dead


def test_all_heads_dead_is_not_the_sublayer_dead(everything):
    closed = everything.closure(without(everything, "0.head", "1.ffn"))
    assert set(gone(everything, closed)) == {"0.head", "0.qk", "0.vo", "1.ffn"}


def test_a_removed_sublayer_takes_all_that_is_behind_it(everything):
    closed = everything.closure(without(everything, "0.attention", "1.mlp"))
    assert set(gone(everything, closed)) == {"0.attention", "0.head", "0.qk", "0.vo", "1.mlp", "1.ffn"}


def test_closure_is_idempotent_and_never_revives(everything):
    noise = torch.Generator().manual_seed(0)
    for _ in range(20):
        kept = torch.rand(len(everything), generator=noise) < 0.6
        closed = everything.closure(kept)
        assert bool((closed <= kept).all())
        assert torch.equal(everything.closure(closed), closed)


def test_dead_heads_are_not_counted(dims):
    kept = without(dims, ("0.vo", slice(0, HEAD_DIM)))
    for masks in (kept, dims.closure(kept)):
        assert dims.parameters(masks) == dims.total() - HEAD_DIM * (4 * HIDDEN + 3)


# Counts


def test_unit_cost(everything):
    qk, vo, ffn = 2 * HIDDEN + 2, 2 * HIDDEN + 1, 2 * HIDDEN + 1
    expected = {
        "ffn": ffn,
        "qk": qk,
        "vo": vo,
        "head": HEAD_DIM * (qk + vo),
        "attention": HIDDEN * (qk + vo),
        "mlp": FFN * ffn,
        "layer": HIDDEN * (qk + vo) + FFN * ffn,
        "hidden": LAYERS * (4 * HIDDEN + 2 * FFN),
    }
    for name, rows in everything.slices.items():
        cost = expected[name.split(".")[-1]]
        assert everything.unit_cost()[rows].tolist() == [cost] * (rows.stop - rows.start), name


def test_unit_cost_is_what_removing_the_unit_saves(everything):
    whole = everything.parameters(everything.ones())
    for unit in range(len(everything)):
        masks = everything.ones()
        masks[unit] = 0
        assert whole - everything.parameters(masks) == everything.unit_cost()[unit]


def test_parameters_are_differentiable(everything):
    noise = torch.Generator().manual_seed(0)
    masks = torch.rand(len(everything), generator=noise, dtype=torch.double).requires_grad_()
    for scope in ("prunable", "layers", "model"):
        assert torch.autograd.gradcheck(lambda m, scope=scope: everything.parameters(m, scope), masks)


def test_parameters_are_multilinear(model):
    """Along any one mask the count is a straight line: so a soft count is the expectation of hard ones."""
    space = Space(model, "ffn", "qk", "vo", "head", "sublayer")
    masks = torch.rand(len(space), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for unit in range(len(space)):
        low, middle, high = (space.parameters(masks.index_fill(0, torch.tensor(unit), v)) for v in (0.0, 0.3, 1.0))
        torch.testing.assert_close(middle, low + 0.3 * (high - low))


def test_scopes_count_what_they_say(model, dims):
    embeddings = sum(p.numel() for p in model.bert.embeddings.parameters())
    layers = sum(p.numel() for p in model.bert.encoder.parameters())
    head = sum(p.numel() for p in [*model.bert.pooler.parameters(), *model.classifier.parameters()])
    assert dims.total("layers") == layers
    assert dims.total("model") == embeddings + layers + head
    assert dims.total() == layers - LAYERS * (4 * HIDDEN + 2 * HIDDEN), "no norms, no output biases"
    assert dims.density(dims.ones()) == dims.density(dims.ones(), "model") == 1.0


def test_bert_base_totals():
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    space = Space(model)
    assert len(space) == 12 * (3072 + 2 * 768)
    assert [space.total(scope) for scope in ("prunable", "layers", "model")] == [
        84_999_168,
        85_054_464,
        109_483_778,
    ]


def test_a_gate_takes_norm_and_bias_out_of_the_layers(everything):
    lost = everything.total("layers") - everything.parameters(without(everything, "0.mlp"), "layers")
    assert lost == FFN * (2 * HIDDEN + 1) + HIDDEN + 2 * HIDDEN


# Keep: the best units at a density


def test_keep_is_the_longest_prefix_of_the_ranking_that_fits(dims):
    noise = torch.Generator().manual_seed(0)
    for density in (0.05, 0.1, 0.35, 0.8):
        scores = torch.rand(len(dims), generator=noise)
        prefixes = [dims.closure(scores >= least) for least in scores.sort().values]
        kept = dims.keep(scores, density)
        assert torch.equal(kept, next(prefix for prefix in prefixes if dims.density(prefix) <= density))


def test_keep_refills_what_closure_frees(dims):
    """QK dims score best, but their heads have no VO dims and die: FFN neurons take their place."""
    scores = torch.cat([torch.full((g.size,), {"qk": 3.0, "ffn": 2.0, "vo": 1.0}[g.kind]) for g in dims.groups])
    kept = dims.keep(scores, 0.2)
    neurons = int(kept.sum())
    assert gone(dims, kept).keys() >= {"0.qk", "1.qk", "0.vo", "1.vo"}
    assert neurons * (2 * HIDDEN + 1) <= 0.2 * dims.total() < (neurons + 1) * (2 * HIDDEN + 1)


def test_keep_everything_at_density_one(dims):
    assert bool(dims.keep(dims.ones(), 1.0).all())


def test_keep_revives_nothing(dims):
    alive = without(dims, "0.ffn", ("0.qk", slice(0, 3)))
    scores = alive.logical_not().float()  # the removed units would be the best
    kept = dims.keep(scores, 0.9, alive=alive)
    assert bool((kept <= alive).all()) and bool(kept.any())


def test_keep_puts_units_without_a_score_last(dims):
    scores = dims.ones()
    scores[dims.slices["0.ffn"]] = float("nan")
    assert gone(dims, dims.keep(scores, 1 - FFN * (2 * HIDDEN + 1) / dims.total())) == {"0.ffn": list(range(FFN))}


def test_one_hidden_dim_stays(model):
    space = Space(model, "hidden", "ffn", "qk", "vo")
    scores = space.ones()
    scores[space.slices["hidden"]] = torch.arange(HIDDEN).float() - 100
    kept = space.keep(scores, 0.01)
    assert kept[space.slices["hidden"]].nonzero().flatten().tolist() == [HIDDEN - 1]


def test_a_density_below_the_floor_is_refused_by_name(model):
    space = Space(model, "head")
    floor = FFN * (2 * HIDDEN + 1) * LAYERS / space.total()
    assert space.floor() == floor
    assert space.density(space.keep(space.ones(), floor)) == floor
    with pytest.raises(
        UserError, match=rf"out of reach: pruning only head leaves at least {floor:.4f}; raise .* or add"
    ):
        space.keep(space.ones(), floor - 0.01)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_that_is_no_fraction_is_refused(dims, density):
    with pytest.raises(UserError, match="fraction of parameters to keep"):
        dims.keep(dims.ones(), density)


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
    filled = space.fill(kept, torch.rand(len(space), generator=noise), density)
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
    filled = dims.fill(kept, scores, room)
    assert gone(dims, filled) == {"0.ffn": list(range(FFN)), "1.ffn": list(range(FFN - 2))}


def test_marginal_cost_is_what_one_unit_changes(everything):
    noise = torch.Generator().manual_seed(0)
    kept = torch.rand(len(everything), generator=noise) < 0.9
    cost = everything.marginal_cost(kept)
    for unit in range(len(everything)):
        ends = [everything.parameters(kept.index_fill(0, torch.tensor(unit), value)) for value in (False, True)]
        assert float(ends[1] - ends[0]) == pytest.approx(float(cost[unit]), abs=1e-6)


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
            space.keep(space.ones(), density)
        return
    kept = space.keep(torch.rand(len(space), generator=torch.Generator().manual_seed(0)), density)
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
    kept, order = space.keep(scores, density), scores.argsort(descending=True)

    def prefix(count):
        return plain.closure(torch.zeros(len(plain), dtype=torch.bool).index_fill(0, order[:count], True))

    count = max(n for n in range(len(space)) if bool((prefix(n) <= kept).all()))
    assert torch.equal(space.rounded(prefix(count), scores), kept)
    assert space.density(space.rounded(prefix(count + 1), scores)) > density
    for name, rows in space.slices.items():
        parts = space.table.heads if not name.endswith("ffn") else 1
        own, ranked = kept[rows].view(parts, -1), scores[rows].view(parts, -1)
        revived = own & ~prefix(count)[rows].view(parts, -1)
        for mine, back, score in zip(own, revived, ranked, strict=True):
            assert not back.any() or mine.all() or score[back].min() > score[~mine].max()


def test_rounding_revives_no_unit_that_is_gone(roomy):
    space = Space(roomy, round_to=4)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    alive = space.keep(scores, 0.6)
    kept = space.keep(scores.flip(0), 0.4, alive=alive)
    assert not bool((kept & ~alive).any()) and bool(kept.any())
    odd = alive.clone()
    odd[space.slices["0.ffn"]] = torch.arange(21) < 7
    assert sizes(space, space.keep(scores, 1.0, alive=odd))["0.ffn"] == [7], "all that is alive"


def test_rounding_to_1_changes_nothing(roomy):
    scores = torch.rand(len(Space(roomy)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Space(roomy).keep(scores, 0.3), Space(roomy, round_to=1).keep(scores, 0.3))
    with pytest.raises(UserError, match="round_to 0 is below 1"):
        Space(roomy, round_to=0)
