"""Law 2, of texts that are generated token by token: `cut(m, p).generate(x) == masked(m, p).generate(x)`, with a cache.

Whatever is left of attentions: a cache that lost count of tokens, or gave one beam another's keys, would be seen in
the logits of every step. A text is also the same without a cache.
"""

from itertools import product

import pytest
import torch
from tiny_models import DECODERS, WRITERS, edge_cases, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached

STEPS = 5
# A model of each family: what its shapes differ in (networks, embeddings) knows nothing of a cache.
FAMILIES = tuple({model.values[0][0]: model for model in WRITERS}.values())
ALL = (*FAMILIES, *DECODERS)
WAYS = {"greedy": {}, "beam": {"num_beams": 2}}


def generated(model, **how):
    """Ids and the logits of every step, for a padded batch; no text may end before the last step."""
    batch = {name: value for name, value in inputs(model).items() if not name.startswith("decoder")}
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    recorded = {"return_dict_in_generate": True, "output_logits": True}
    found = model.generate(**batch, **options, **recorded, **how)
    return found.sequences, torch.stack(found.logits)


def assert_same(mine, theirs):
    assert torch.equal(mine[0], theirs[0])
    assert mine[1].shape[0] == STEPS
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-9, atol=1e-10)


def assert_cut_generates_as_masked(model, plan, **how):
    space, small = plan.space(model), cut(model, plan)
    with attached(model, space, plan.masks.to(model.dtype)):
        masked = generated(model, **how)
    assert_same(generated(small, **how), masked)
    return small


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", ALL)
def test_every_way_in_which_units_are_dead(which, soft, way):
    kind, head, shape = which
    model, plan, _ = edge_cases(kind, shape, head=head, soft=soft)
    small = assert_cut_generates_as_masked(model, plan, **WAYS[way])
    if soft:
        assert_same(generated(small, **WAYS[way], use_cache=False), generated(small, **WAYS[way]))


FIRST = [("encoder.0", "sdpa"), ("decoder.0", "sdpa"), ("decoder.0", "eager"), ("decoder.0.cross", "sdpa")]
CASES = [*product(FAMILIES, FIRST), *product(DECODERS, [("0", "sdpa"), ("0", "eager")])]


@pytest.mark.parametrize(
    ("which", "block", "attention"),
    [pytest.param(*which.values, *first, id=f"{which.id}-{'-'.join(first)}") for which, first in CASES],
)
def test_first_layers_without_heads(which, block, attention):
    """The cache counts tokens in the first layer, where T5 also computes its relative position bias."""
    model = tiny(*which)
    model.set_attn_implementation(attention)
    for unit in ("head", "sublayer"):
        space = Space(model, unit)
        masks = space.ones()
        masks[space.slices[f"{block}.head" if unit == "head" else f"{block}.attention"]] = 0.0
        assert_cut_generates_as_masked(model, Plan.of(space, masks), **WAYS["beam"])


@pytest.mark.parametrize("which", ALL)
def test_all_heads_removed(which):
    model = tiny(*which)
    space = Space(model, "head")
    assert_cut_generates_as_masked(model, Plan.of(space, torch.zeros(len(space))), **WAYS["beam"])


@pytest.mark.parametrize("which", ALL)
def test_heads_of_many_sizes_in_buckets(which):
    model = tiny(*which)
    space = Space(model, "qk", "vo")
    masks = random_masks(space, 0.4)
    reading = Plan.of(space, masks).read(space)
    heads = [len(reading.head_sizes(n)[0]) for n in range(len(space.table.attentions))]
    even = [2 if attention.rotary else 1 for attention in space.table.attentions]
    layouts = [Layout(tuple((head,) for head in reversed(range(n))), pair) for n, pair in zip(heads, even, strict=True)]
    assert max(heads) >= min(3, space.table.kv_heads)
    assert_cut_generates_as_masked(model, Plan.of(space, masks, layouts=layouts), **WAYS["beam"])


@pytest.mark.parametrize("which", FAMILIES)
def test_masks_are_taken_where_the_encoder_is_called_alone(which):
    """Generation calls the encoder before the model, which then gets the encoder's states."""
    model, batch = tiny(*which), inputs(tiny(*which))
    space = Space(model, "head")
    masks, source = random_masks(space), {name: batch[name] for name in ("input_ids", "attention_mask")}
    wanted = cut(model, Plan.of(space, masks)).get_encoder()(**source).last_hidden_state
    with attached(model, space, lambda: masks):
        torch.testing.assert_close(model.get_encoder()(**source).last_hidden_state, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("which", (FAMILIES[0], FAMILIES[-1], *DECODERS))
def test_a_cache_of_fixed_length_gives_the_same_texts(which):
    kind, head, shape = which
    small = cut(*edge_cases(kind, shape, head=head)[:2])
    fixed = {"cache_implementation": "static", "disable_compile": True}
    assert_same(generated(small, **WAYS["beam"], **fixed), generated(small, **WAYS["beam"]))
