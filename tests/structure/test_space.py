"""The space: which units there are, which of them die with others, and what a unit costs."""

import pytest
import torch
from space_world import FFN, HEAD_DIM, HIDDEN, LAYERS, bert, removed_units, without
from tiny_models import COMMON_UNITS, WRITERS, tiny
from transformers import BertConfig, BertForSequenceClassification

from secateur.structure.space import UnitSpace
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def dims(model):
    """FFN neurons, QK dims and VO dims."""
    return UnitSpace(model, "ffn", "qk", "vo")


@pytest.fixture(scope="module")
def everything(model):
    """Every kind at once."""
    return UnitSpace(model, *COMMON_UNITS)


# The table of units


def test_groups_are_in_the_order_of_the_kinds_named(dims):
    assert list(dims.slices) == ["0.ffn", "1.ffn", "0.qk", "1.qk", "0.vo", "1.vo"]
    assert len(dims) == LAYERS * (FFN + 2 * HIDDEN) == dims.ones().numel()
    assert dims.slices["1.vo"].stop == len(dims)


def test_default_units_are_those_of_grain(model):
    assert UnitSpace(model).units == ("ffn", "qk", "vo")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ffn", "heads"), "units 'heads' are not known: expected one of ffn, qk"),
        (("ffn", "ffn"), "units ffn, ffn name some units twice"),
        (("encoder.ffn",), "bert has no ffn of 'encoder' alone .its layers are of one stack.: name ffn"),
        (("encoder.heads",), "'encoder.heads' are not known"),
    ],
)
def test_unknown_or_repeated_units_are_refused(model, names, message):
    with pytest.raises(UserError, match=message):
        UnitSpace(model, *names)


@pytest.mark.parametrize("which", WRITERS)
def test_units_of_one_stack_are_those_of_both_without_the_other(which):
    model = tiny(*which)
    both, names = UnitSpace(model, "ffn", "attention/4x8"), ("encoder.ffn", "decoder.attention/4x8")
    space = UnitSpace(model, *names)
    assert (space.units, space.kinds) == (names, ("ffn", "attention/4x8"))
    assert list(space.slices) == [
        group.name for group in both.groups if group.name.startswith({"ffn": "encoder."}.get(group.kind, "decoder."))
    ]
    assert space.parameters(0 * space.ones()) > both.parameters(0 * both.ones())
    for others, message in ((("ffn", "encoder.ffn"), "name some units twice"), (("decoder.hidden",), "name hidden")):
        with pytest.raises(UserError, match=message):
            UnitSpace(model, *others)


# Closure: a unit that is dead because of others


def test_a_head_without_vo_dims_loses_its_qk_dims(dims):
    closed = dims.closure(without(dims, ("0.vo", slice(0, HEAD_DIM))))
    assert removed_units(dims, closed) == {"0.vo": [0, 1, 2, 3], "0.qk": [0, 1, 2, 3]}


def test_a_head_with_one_vo_dim_keeps_its_qk_dims(dims):
    kept = without(dims, ("0.vo", slice(1, HEAD_DIM)))
    assert torch.equal(dims.closure(kept), kept)


def test_a_head_without_qk_dims_is_kept(dims):
    kept = without(dims, ("0.qk", slice(0, HEAD_DIM)))
    assert torch.equal(dims.closure(kept), kept)


def test_a_removed_head_removes_its_dims_and_a_head_without_vo_dims_is_removed(model):
    space = UnitSpace(model, "head", "qk", "vo")
    dead = {"0.head": [1], "0.qk": [4, 5, 6, 7], "0.vo": [4, 5, 6, 7]}
    assert removed_units(space, space.closure(without(space, ("0.head", slice(1, 2))))) == dead
    assert removed_units(space, space.closure(without(space, ("0.vo", slice(4, 8))))) == dead


def test_a_sublayer_without_heads_is_kept(everything):
    closed = everything.closure(without(everything, "0.head", "1.ffn"))
    assert set(removed_units(everything, closed)) == {"0.head", "0.qk", "0.vo", "1.ffn"}


def test_a_removed_sublayer_removes_all_units_behind_it(everything):
    closed = everything.closure(without(everything, "0.attention", "1.mlp"))
    assert set(removed_units(everything, closed)) == {"0.attention", "0.head", "0.qk", "0.vo", "1.mlp", "1.ffn"}


def test_closure_is_idempotent_and_adds_no_unit(everything):
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


def test_unit_cost_is_the_saving_of_removing_the_unit(everything):
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
    space = UnitSpace(model, "ffn", "qk", "vo", "head", "sublayer")
    masks = torch.rand(len(space), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for unit in range(len(space)):
        low, middle, high = (space.parameters(masks.index_fill(0, torch.tensor(unit), v)) for v in (0.0, 0.3, 1.0))
        torch.testing.assert_close(middle, low + 0.3 * (high - low))


def test_the_parameters_of_each_scope(model, dims):
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
    space = UnitSpace(model)
    assert len(space) == 12 * (3072 + 2 * 768)
    assert [space.total(scope) for scope in ("prunable", "layers", "model")] == [
        84_999_168,
        85_054_464,
        109_483_778,
    ]


def test_a_removed_sublayer_removes_its_norm_and_bias(everything):
    lost = everything.total("layers") - everything.parameters(without(everything, "0.mlp"), "layers")
    assert lost == FFN * (2 * HIDDEN + 1) + HIDDEN + 2 * HIDDEN


def test_marginal_cost_is_the_change_by_one_unit(everything):
    noise = torch.Generator().manual_seed(0)
    kept = torch.rand(len(everything), generator=noise) < 0.9
    cost = everything.marginal_cost(kept)
    for unit in range(len(everything)):
        ends = [everything.parameters(kept.index_fill(0, torch.tensor(unit), value)) for value in (False, True)]
        assert float(ends[1] - ends[0]) == pytest.approx(float(cost[unit]), abs=1e-6)
