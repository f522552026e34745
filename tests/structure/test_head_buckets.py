"""Layouts of heads: what they cost, which is chosen, and the packed projections of a cut attention."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import outputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.head_buckets import KernelCosts, Layout, attention_seconds, cheapest_layout
from secateur.structure.plan import Plan
from secateur.surgery.compact import attention
from secateur.surgery.cut import cut

sizes = st.lists(st.tuples(st.integers(0, 64), st.integers(1, 64)), min_size=1, max_size=6)
costs = st.builds(KernelCosts, call=st.floats(0, 1e-3), project=st.just(8e10), attend=st.floats(1e9, 1e11))


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


def test_estimated_seconds_of_a_layout():
    costs = KernelCosts(call=1.0, project=2 * 8 * 128, attend=2 * 8 * 128 * 128, lanes=1)
    one, two = Layout.single(2), Layout(((0,), (1,)))
    assert attention_seconds(one, [4, 1], [6, 2], 1, costs) == 1 + (2 * 8 + 12 + 12) + (8 + 12)
    assert attention_seconds(two, [4, 1], [6, 2], 1, costs) == 2 + (2 * 5 + 8 + 8) + (5 + 8)
    lanes = KernelCosts(call=0.0, project=2 * 8 * 128, attend=float("inf"), lanes=16)
    assert attention_seconds(one, [4, 1], [6, 2], 1, lanes) == 32 + 16


@given(sizes, costs)
def test_the_cheapest_layout_has_every_head_once_and_beats_one_bucket_and_one_bucket_per_head(heads, costs):
    qk, vo = zip(*heads, strict=True)
    layout = cheapest_layout(qk, vo, 768, costs)
    assert sorted(layout.order) == list(range(len(heads)))
    loop = Layout(tuple((head,) for head in range(len(heads))))
    least = min(
        attention_seconds(other, qk, vo, 768, costs)
        for other in [Layout.single(len(heads)), *([loop] * (len(heads) < 5))]
    )
    assert attention_seconds(layout, qk, vo, 768, costs) <= least


@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), costs)
def test_heads_of_square_sizes_get_the_best_of_all_layouts(dims, costs):
    """Where QK and VO are ordered alike, no split that is out of order is cheaper."""
    every = [Layout(buckets, multiple) for buckets, multiple in product(partitions(range(len(dims))), (1, 4, 8, 16))]
    best = min(attention_seconds(layout, dims, dims, 384, costs) for layout in every if len(layout.buckets) <= 4)
    assert attention_seconds(cheapest_layout(dims, dims, 384, costs), dims, dims, 384, costs) == pytest.approx(
        best, rel=1e-12
    )


def test_cheap_calls_give_many_buckets_and_expensive_ones_few():
    qk = vo = [8, 8, 64, 64]
    assert cheapest_layout(qk, vo, 768, KernelCosts(call=0.0)).buckets == ((0, 1), (2, 3))
    assert cheapest_layout(qk, vo, 768, KernelCosts(call=1.0)).buckets == ((0, 1, 2, 3),)
    assert cheapest_layout([], [], 768).buckets == ()


# Query, key and value as one product


@pytest.fixture
def small():
    model = tiny("bert")
    space = Space(model, "qk", "vo")
    return cut(model, Plan.of(space, random_masks(space)))


def many(model):
    """More tokens than `attention.JOIN_FROM`, some of them padding."""
    ids = torch.arange(16 * 20).view(16, 20) % model.config.vocab_size
    return {"input_ids": ids, "attention_mask": (torch.arange(20) < torch.arange(5, 21).unsqueeze(1)).long()}


def test_long_batches_give_the_same_outputs_as_short_ones(small, monkeypatch):
    batch = many(small)
    assert batch["input_ids"].numel() > attention.JOIN_FROM
    at_once = outputs(small, batch)[0]["logits"]
    monkeypatch.setattr(attention, "JOIN_FROM", 10**9)
    torch.testing.assert_close(at_once, outputs(small, batch)[0]["logits"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_outputs_follow_weights_that_change(small, fused):
    """A fused optimizer step, and a change through `data`, leave no trace in a tensor's version."""
    batch = many(small)
    before = outputs(small, batch)[0]["logits"]
    small.float().train()(**batch).logits.sum().backward()
    torch.optim.AdamW(small.parameters(), lr=0.1, fused=fused).step()
    small.double().eval()
    torch.testing.assert_close(
        outputs(small, batch)[0]["logits"], outputs(copy.deepcopy(small), batch)[0]["logits"], rtol=1e-12, atol=1e-12
    )
    assert (outputs(small, batch)[0]["logits"] - before).abs().max() > 1e-3


# Sublayers that are gone


def test_a_removed_sublayer_returns_the_residual_stream_unchanged():
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
