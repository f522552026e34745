"""Heads that share keys and values, and families whose queries and keys are normed, which have no units of QK dims."""

import pytest
import torch
from law_assertions import assert_counted_equals_stored, assert_cut_equals_masked
from tiny_models import WITHOUT_QK, inputs, random_masks, taught, tiny
from tiny_training import arguments, collate, examples

from secateur.budget.space import Space
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.surgery.zeroed_blocks import kept_at_zero
from secateur.system.errors import UserError
from secateur.training.objectives import Labels
from secateur.training.trainer import PruningTrainer

UNITS = (
    ("ffn", "vo"),
    ("head", "ffn"),
    ("kv_head", "vo"),
    ("hidden", "head", "kv_head", "sublayer", "ffn"),
    ("layer",),
)


def space_of(*units, **sizes):
    """Four heads in twos: the first two share a key and a value, and so do the others; a head has 8 dims."""
    return Space(tiny("llama", **sizes), *units)


def kept(space, **of_groups):
    """Ones, with zeros at these units of groups, whose names have `_` for `.`."""
    masks = space.ones()
    for name, units in of_groups.items():
        rows = space.slices["0." + name]
        masks[[rows.start + unit for unit in units]] = 0.0
    return masks


def alive(space, masks, axis):
    return space.read(masks).alive[axis].nonzero().flatten().tolist()


def test_a_pair_of_a_key_is_a_pair_of_all_heads_that_share_it():
    space = space_of("qk")
    assert {name: rows.stop - rows.start for name, rows in space.slices.items()} == {"0.qk": 8, "1.qk": 8}
    masks = kept(space, qk=[1, 6])  # pair 1 of the first key and pair 2 of the second
    assert sorted({*range(16)} - {*alive(space, masks, "0.key")}) == [1, 5, 10, 14]
    assert sorted({*range(32)} - {*alive(space, masks, "0.qk")}) == [1, 5, 9, 13, 18, 22, 26, 30]


def test_a_vo_dim_is_in_one_value_and_in_the_outputs_of_all_heads_that_share_it():
    space = space_of("vo")
    masks = kept(space, vo=[3])
    assert sorted({*range(16)} - {*alive(space, masks, "0.value")}) == [3]
    assert sorted({*range(32)} - {*alive(space, masks, "0.vo")}) == [3, 11]
    hidden = space.table.sizes["hidden"]
    assert space.unit_cost()[0] == hidden + 2 * hidden  # a row of the value, a column of the output for each head


def test_a_key_goes_with_the_last_head_that_needs_it():
    space = space_of("head")
    one, both = kept(space, head=[0]), kept(space, head=[0, 1])
    assert alive(space, one, "0.key") == [*range(16)] and alive(space, one, "0.qk") == [*range(8, 32)]
    assert alive(space, both, "0.key") == alive(space, both, "0.value") == [*range(8, 16)]
    reading = space.read(both)
    assert reading.head_sizes(0) == ([8], [8]) and reading.heads_of_each(0) == [2]
    assert space.read(one).heads_of_each(0) == [1, 2]


def test_a_kv_head_takes_its_heads_along():
    space = space_of("kv_head")
    assert alive(space, kept(space, kv_head=[1]), "0.vo") == [*range(16)]
    hidden, dims = space.table.sizes["hidden"], space.table.head_dim
    assert space.unit_cost()[0] == hidden * dims * (1 + 1 + 2 + 2)  # key, value, two queries, two outputs


def test_kv_heads_are_no_units_where_each_head_has_its_own():
    with pytest.raises(UserError, match="the heads of bert share no keys and values: name the units head instead"):
        Space(tiny("bert"), "kv_head")


@pytest.mark.parametrize("sizes", [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}], ids=["all", "none"])
@pytest.mark.parametrize("units", [("ffn", "qk", "vo"), ("kv_head", "head"), ("attention/4x8",)], ids="-".join)
def test_all_heads_may_share_one_key_and_none_may(units, sizes):
    space = space_of(*units, **sizes)
    plan = Plan.of(space, random_masks(space, 0.6, soft=True))
    assert_cut_equals_masked(space.model, plan)
    assert_counted_equals_stored(space.model, Plan.of(space, random_masks(space, 0.6)))


def test_keys_in_buckets_of_their_own_and_heads_beside_them():
    space = space_of("qk", "vo", "head")
    masks = random_masks(space, 0.9) * kept(space, head=[1])
    plan = Plan.of(space, masks, layouts=[Layout(((1,), (0,)), 2), Layout(((1,), (0,)), 4)])
    assert plan.read(space).heads_of_each(0)[0] == 1
    assert_cut_equals_masked(space.model, plan, masks)


@pytest.mark.parametrize("shape", [0, 1], ids=["no biases", "biases"])
def test_tiles_that_only_one_of_two_heads_keeps_stay_zero_while_the_model_recovers(shape, tmp_path):
    """The other head stores zeros beside a key that is there: they would learn."""
    model = tiny("llama", shape=shape)
    space = Space(model, "attention/2x32")
    masks = random_masks(space, 0.6)
    plan = Plan.of(space, masks)
    small = cut(model, plan).train()
    with kept_at_zero(small):
        args = arguments(tmp_path, 4, learning_rate=1e-2)
        PruningTrainer(
            small, objective=[Labels()], args=args, train_dataset=examples(False), data_collator=collate
        ).train()
    assert small.num_parameters() > round(plan.achieved["model"] * space.total("model"))  # it stores zeros
    nonzero = sum(int(parameter.count_nonzero()) for parameter in small.parameters())
    assert nonzero == round(plan.achieved["model"] * space.total("model"))


# Families whose QK dims are no units


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("units", UNITS, ids="-".join)
@pytest.mark.parametrize("kind", WITHOUT_QK)
def test_a_cut_of_other_units_is_exact(kind, units, soft):
    model = tiny(kind, "ForCausalLM")
    space = Space(model, *units)
    masks = random_masks(space, 0.6, soft=soft)
    assert_cut_equals_masked(model, Plan.of(space, masks), masks)
    assert_counted_equals_stored(model, Plan.of(space, masks))


@pytest.mark.parametrize("units", [("ffn", "qk"), ("attention/4x8",), ("attention/head",)], ids="-".join)
@pytest.mark.parametrize("kind", WITHOUT_QK)
def test_units_that_take_dims_out_of_a_norm_are_refused(kind, units):
    with pytest.raises(UserError, match=f"QK dims of {kind} cannot be pruned, because q_norm, k_norm norm all dims"):
        Space(tiny(kind, "ForCausalLM"), *units)


@pytest.mark.parametrize("kind", WITHOUT_QK)
def test_texts_that_are_generated_and_models_that_are_saved_are_the_same(kind, tmp_path):
    model = tiny(kind, "ForCausalLM", dtype=torch.float32)
    space = Space(model, "ffn", "vo", "head")
    small = cut(model, taught("grain", space, 0.6).plan(0.6))
    save(small, tmp_path / "small")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    plan = Plan.from_dict(small.plan, model)
    with attached(model, space, plan.masks):
        masked = model.generate(**inputs(model), **options)
    assert torch.equal(small.generate(**inputs(model), **options), masked)
    assert torch.equal(load(tmp_path / "small").generate(**inputs(model), **options), masked)


@pytest.mark.parametrize("kind", WITHOUT_QK)
def test_a_layout_that_pads_normed_heads_is_refused(kind):
    space = Space(tiny(kind, "ForCausalLM"), "vo")
    with pytest.raises(UserError, match="expected a number that divides 8, because all dims of a head are normed"):
        Plan.of(space, random_masks(space), layouts=[Layout(((0, 1),), 16)] * 2)
