"""Layouts of heads: what they cost, which is chosen, and the packed projections of a cut attention."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import inputs, random_masks, tiny

from secateur.compact import CompactAttention
from secateur.layout import Layout, Prices, choose, cost
from secateur.plan import Plan
from secateur.space import Space
from secateur.surgery import cut

sizes = st.lists(st.tuples(st.integers(0, 64), st.integers(1, 64)), min_size=1, max_size=6)
prices = st.builds(Prices, call=st.floats(0, 1e-3), project=st.just(8e10), mix=st.floats(1e9, 1e11))


def partitions(heads):
    """Every way to put heads into buckets."""
    if not heads:
        yield ()
        return
    for parts in partitions(heads[1:]):
        yield ((heads[0],), *parts)
        for place in range(len(parts)):
            yield (*parts[:place], (heads[0], *parts[place]), *parts[place + 1 :])


def test_widths_are_the_widest_of_the_bucket_rounded_up():
    layout = Layout(((0, 2), (1,)), multiple=4)
    assert layout.widths([5, 9, 8]) == (8, 12)
    assert layout.widths([0, 0, 0]) == (4, 4)
    assert Layout.single(3).widths([5, 9, 8]) == (9,)
    assert layout.order == (0, 2, 1)


def test_what_a_layout_costs():
    prices = Prices(call=1.0, project=2 * 8 * 128, mix=2 * 8 * 128 * 128, lanes=1)  # a second for each column and dim
    one, two = Layout.single(2), Layout(((0,), (1,)))
    assert cost(one, [4, 1], [6, 2], 1, prices) == 1 + (2 * 8 + 12 + 12) + (8 + 12)
    assert cost(two, [4, 1], [6, 2], 1, prices) == 2 + (2 * 5 + 8 + 8) + (5 + 8)
    lanes = Prices(call=0.0, project=2 * 8 * 128, mix=float("inf"), lanes=16)
    assert cost(one, [4, 1], [6, 2], 1, lanes) == 32 + 16


@given(sizes, prices)
def test_the_choice_holds_every_head_once_and_beats_one_bucket_and_one_a_head(heads, prices):
    qk, vo = zip(*heads, strict=True)
    layout = choose(qk, vo, 768, prices)
    assert sorted(layout.order) == list(range(len(heads)))
    loop = Layout(tuple((head,) for head in range(len(heads))))
    least = min(cost(other, qk, vo, 768, prices) for other in [Layout.single(len(heads)), *([loop] * (len(heads) < 5))])
    assert cost(layout, qk, vo, 768, prices) <= least


@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), prices)
def test_heads_of_square_sizes_get_the_best_of_all_layouts(dims, prices):
    """Where QK and VO are ordered alike, no split that is out of order is cheaper."""
    every = [Layout(buckets, multiple) for buckets, multiple in product(partitions(range(len(dims))), (1, 4, 8, 16))]
    best = min(cost(layout, dims, dims, 384, prices) for layout in every if len(layout.buckets) <= 4)
    assert cost(choose(dims, dims, 384, prices), dims, dims, 384, prices) == pytest.approx(best, rel=1e-12)


def test_free_calls_are_taken_and_dear_ones_shared():
    qk = vo = [8, 8, 64, 64]
    assert choose(qk, vo, 768, Prices(call=0.0)).buckets == ((0, 1), (2, 3))
    assert choose(qk, vo, 768, Prices(call=1.0)).buckets == ((0, 1, 2, 3),)
    assert choose([], [], 768).buckets == ()


# The packed projections


@pytest.fixture
def small():
    model = tiny("bert")
    space = Space(model, "qk", "vo")
    return cut(model, Plan.of(space, random_masks(space)))


def changed_in_place(attention):
    with torch.no_grad():
        attention.value.weight.mul_(2.0)


def loaded_anew(attention):
    attention.load_state_dict({name: 2.0 * value for name, value in attention.state_dict().items()})


def replaced(attention):
    attention.key.weight = torch.nn.Parameter(3.0 * attention.key.weight.detach())


@pytest.mark.parametrize("change", [changed_in_place, loaded_anew, replaced])
def test_a_packed_projection_follows_its_weights(small, change):
    batch = inputs(small)
    with torch.no_grad():
        before = small(**batch).logits
        for module in small.modules():
            if isinstance(module, CompactAttention):
                change(module)
        after = small(**batch).logits
        fresh = copy.deepcopy(small).train()(**batch).logits  # no dropout in a tiny model: training differs in nothing
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(after, fresh, rtol=1e-12, atol=1e-12)


def test_a_packed_projection_passes_gradients_on_and_is_not_saved(small):
    batch = inputs(small)
    with torch.no_grad():
        small(**batch)
    keys = set(small.state_dict())
    small(**batch).logits.sum().backward()
    assert all(parameter.grad is not None for name, parameter in small.named_parameters() if ".query." in name)
    assert keys == set(small.state_dict()) and not any("packed" in key for key in keys)


def test_packing_in_inference_mode(small):
    batch = inputs(small)
    with torch.no_grad():
        expected = small(**batch).logits
    with torch.inference_mode():
        made_there = copy.deepcopy(small)
        assert torch.equal(made_there(**batch).logits, expected)
        for module in made_there.modules():
            if isinstance(module, CompactAttention):
                changed_in_place(module)
        assert not torch.equal(made_there(**batch).logits, expected)


# Sublayers that are gone


def test_a_removed_sublayer_hands_the_stream_on_as_it_is():
    """Not a copy with zeros added; where a family adds in its layer, there is nothing to spare."""
    model = tiny("bert")
    space = Space(model, "sublayer")
    masks = space.ones()
    masks[space.slices["1.attention"]] = masks[space.slices["0.mlp"]] = 0.0
    small = cut(model, Plan.of(space, masks))
    layers, stream = small.bert.encoder.layer, torch.randn(2, 3, 32, dtype=torch.float64)
    assert layers[1].attention(stream)[0] is stream
    assert layers[0].output(torch.zeros(()), stream) is stream
    assert layers[0].attention(stream)[0] is not stream
