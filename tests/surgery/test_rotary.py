"""Rotary positions and windows: inputs of every kind, pairs of dims, and what a uniform cut says of its layers."""

from dataclasses import replace

import pytest
import torch
from fake_clock import SIZES, timer
from law_assertions import assert_counted_equals_stored, assert_cut_equals_masked
from tiny_models import every_kind_of_inputs, random_masks, tiny

from secateur.budget.latency import LatencyTable
from secateur.budget.ranking import rounded
from secateur.budget.space import Space
from secateur.measure.inspected_model import Count
from secateur.measure.inspection import inspect
from secateur.measure.latency_sweep import measured_sizes
from secateur.report.inspection_text import captions
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.compact import Pruned
from secateur.surgery.cut import cut
from secateur.surgery.schema import Structure
from secateur.surgery.stock import plain
from secateur.surgery.uncut import uncut
from secateur.system.errors import UserError

MEAN = {"classifier_pooling": "mean"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_cut_equals_masked_for_inputs_of_every_kind(soft, attention):
    model = tiny("modernbert", num_hidden_layers=4, **MEAN)
    model.set_attn_implementation(attention)
    space = Space(model, "ffn", "qk", "vo", "head")
    masks = random_masks(space, 0.7, soft=soft)
    assert_cut_equals_masked(model, Plan.of(space, masks), masks, batches=every_kind_of_inputs(model))


def test_a_window_leaves_tokens_out():
    """Else inputs longer than it would show nothing: far words change what a model without full attention says."""
    found = []
    for window in (4, 40):
        model = tiny("modernbert", local_attention=window, layer_types=["sliding_attention"] * 2)
        space = Space(model, "qk", "vo")
        small = cut(model, Plan.of(space, random_masks(space, 0.7)))
        batch = every_kind_of_inputs(small)[1]
        other = batch | {"input_ids": batch["input_ids"].clone()}
        other["input_ids"][:, -1] += 1
        with torch.no_grad():
            found.append(torch.equal(small(**batch).logits[0], small(**other).logits[0]))
    assert found == [True, False]


def test_a_unit_is_a_pair_of_dims():
    model = tiny("modernbert")
    space = Space(model, "qk")
    assert len(space) == 2 * 4 * 4 and space.table.head_dim == 8
    masks = space.ones()
    masks[space.slices["1.qk"]][5] = 0.0  # the second pair of the second head
    gone = (space.effective(masks)["1.qk"] == 0).nonzero().flatten().tolist()
    assert gone == [8 + 1, 8 + 5]
    layouts = [Layout.single(4), Layout(((0, 2, 3), (1,)))]
    structure = Structure.from_dict(
        cut(model, Plan.of(space, masks, layouts=[replace(one, multiple=2) for one in layouts])).config.secateur
    )
    (path,) = structure.attention
    one = structure.attention[path]
    assert path == space.table.attentions[1].path
    assert one.qk == (8, 8, 8, 6) and one.pairs == ((0, 1, 2, 3),) * 3 + ((0, 2, 3),)
    assert structure.linear[f"{path}.Wqkv"] == (sum(one.qk) * 2 + 32, 32)


def test_tiles_remove_a_pair_with_the_last_tile_of_both_its_dims():
    """The bias of a dim without tiles is gone, though its row is stored for the other dim of the pair."""
    model = tiny("modernbert", shape=1)
    space = Space(model, "attention/4x32")
    masks = space.ones()
    masks[space.slices["0.attention.query/4x32"]] = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1]).float()
    masks[space.slices["1.attention.key/4x32"]] = torch.tensor([0, 1, 1, 1, 1, 1, 0, 0]).float()
    plan = Plan.of(space, masks)
    assert plan.read(space).head_sizes(0)[0] == [8, 8, 0, 8] and plan.read(space).head_sizes(1)[0] == [8, 8, 8, 0]
    assert_counted_equals_stored(model, plan)
    assert_cut_equals_masked(model, plan, masks)


def test_sizes_are_even():
    model = tiny("modernbert")
    space = Space(model, "qk", "vo")
    assert all(size % 2 == 0 for size in measured_sizes(space)["layers"]["qk"])
    values = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    kept = rounded(space, random_masks(space, 0.4) > 0, values, 4)
    reading = space.read(kept.double())
    assert {size % 4 for number in range(2) for size in reading.head_sizes(number)[0]} == {0}
    odd = [Layout.single(len(reading.head_sizes(number)[0])) for number in range(2)]
    with pytest.raises(UserError, match=r"^the plan stores the heads of model.layers.0.attn in multiples of 1 dims"):
        Plan.of(space, kept.float(), layouts=odd)


@pytest.mark.parametrize(("removed", "kinds"), [(1, ["full", "sliding", "full"]), (3, ["full", "sliding", "sliding"])])
def test_a_uniform_cut_keeps_the_kinds_of_its_layers(removed, kinds):
    model = tiny("modernbert", num_hidden_layers=4)
    assert model.config.layer_types == [f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full")]
    space = Space(model, "layer")
    masks = space.ones()
    masks[removed] = 0.0
    stock = plain(cut(model, Plan.of(space, masks)))
    assert stock.config.layer_types == [f"{kind}_attention" for kind in kinds]


def test_a_uniform_cut_without_the_first_layer_is_refused():
    """The stock model's first layer has no norm before its attention."""
    model = tiny("modernbert")
    space = Space(model, "layer")
    masks = space.ones()
    masks[0] = 0.0
    with pytest.raises(UserError, match=r"whose first layer is layer 1 \(model.layers.0.attn_norm.weight is on one"):
        plain(cut(model, Plan.of(space, masks)))


@pytest.mark.parametrize("round_to", [1, 4])
def test_a_latency_is_met_with_whole_pairs(round_to):
    model = tiny("modernbert", dtype=torch.float32, **SIZES | {"hidden_size": 32})
    table = LatencyTable.measure(model, "ffn", "qk", "vo", timer=timer())
    space = Space(model, "ffn", "qk", "vo", budget=table, round_to=round_to)
    values = torch.rand(len(space), generator=torch.Generator().manual_seed(1))
    kept = space.choose(values, 0.7)
    assert table.predict(space, kept.float()) <= 0.7 * table.dense_ms
    reading = space.read(kept.double())
    sizes = {size for number in range(2) for size in reading.head_sizes(number)[0]}
    assert sizes and all(size % max(2, round_to) == 0 for size in sizes)


def test_an_inspection_counts_the_layers_of_each_kind_of_attention():
    model = tiny("modernbert", num_hidden_layers=4)
    space = Space(model, "sublayer")
    masks = space.ones()
    masks[space.slices["1.attention"]] = 0.0
    inspection = inspect(cut(model, Plan.of(space, masks)))
    assert inspection.kinds == {"full_attention": Count(2, 2), "sliding_attention": Count(1, 2)}
    assert "full attention in 2 of 2 layers, sliding attention in 1 of 2 layers" in captions(inspection)
    assert inspect(tiny("bert")).kinds == {}


@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 2}], ids=["whole", "grouped"])
def test_a_cut_that_leaves_all_shapes_is_right_as_a_stock_model_too(shape, tmp_path):
    """In each layer one head stays whole: the others are padded to its width, which is that of the stock model."""
    model = tiny("llama", "ForCausalLM", dtype=torch.float32, **shape)
    space = Space(model, "qk", "ffn", "vo")
    masks = space.ones()
    masks[space.slices["0.qk"].start] = 0.0  # the first pair of the first key
    masks[space.slices["1.vo"].start] = 0.0
    plan = Plan.of(space, masks, layouts=[replace(Layout.single(space.table.kv_heads), multiple=2)] * 2)
    small = cut(model, plan)
    assert {name: p.shape for name, p in small.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    save(small, tmp_path / "model")
    batch = every_kind_of_inputs(model)[0]
    with torch.no_grad():
        stock = type(model).from_pretrained(tmp_path / "model").eval()
        assert not isinstance(stock, Pruned)
        expected = small(**batch).logits
        torch.testing.assert_close(stock(**batch).logits, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(load(tmp_path / "model")(**batch).logits, expected)
    assert_cut_equals_masked(model.double(), Plan.of(space, masks, layouts=plan.layouts), masks)
    dense, again = uncut(small)
    torch.testing.assert_close(cut(dense, again).state_dict(), small.state_dict())
