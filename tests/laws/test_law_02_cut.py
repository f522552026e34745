"""Law 2: `cut(m, p)(x) == masked(m, p)(x)`, in outputs and in hidden states."""

import pytest
import torch
from kept_pieces import SHARING, every_second, in_both_numbers, of_kept_pieces
from law_assertions import assert_cut_equals_masked, assert_same, everything, of_kept_stream, under_masks
from tiny_models import (
    ARCHITECTURES,
    CLASSIFIERS,
    IN_UNITS,
    LAYOUTS,
    LEADING,
    METHODS,
    READERS,
    UNIT_SETS,
    WRITERS,
    covering,
    edge_cases,
    inputs,
    laid_out,
    random_masks,
    taught,
    tiny,
)

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.uncut import uncut


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(("which", "units"), IN_UNITS)
def test_cut_equals_masked(which, units, soft):
    model = tiny(*which)
    space = Space(model, *units)
    masks = random_masks(space, soft=soft)
    assert_cut_equals_masked(model, Plan.of(space, masks), masks)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_cut_equals_masked_for_one_output(which, soft):
    model = tiny(*which, num_labels=1)
    space = Space(model, "hidden", "head", "sublayer", "ffn")
    assert_cut_equals_masked(model, Plan.of(space, masks := random_masks(space, soft=soft)), masks)


@pytest.mark.parametrize(("dtype", "sets"), [(torch.bfloat16, UNIT_SETS), (torch.float16, UNIT_SETS[-2:])], ids=str)
@pytest.mark.parametrize("which", LEADING)
def test_cut_equals_masked_in_low_precision(which, dtype, sets):
    """Both types have every kind of units, of which all sets are made."""
    for units in sets:
        model = tiny(*which, dtype=dtype)
        space = Space(model, *units)
        assert_cut_equals_masked(model, Plan.of(space, random_masks(space, density=0.8, soft=True)))


@pytest.mark.parametrize(("which", "units", "name"), covering(LEADING, UNIT_SETS, METHODS))
def test_cut_equals_masked_for_every_method(which, units, name):
    """Over cases in which any method meets any model and any units, and any units meet any model."""
    model = tiny(*which)
    method = taught(name, Space(model, *units), density=0.6)
    assert_cut_equals_masked(model, method.plan(density=0.4))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("hidden", [False, True], ids=["whole-stream", "cut-stream"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", LEADING)
def test_every_way_in_which_units_are_dead(which, soft, hidden, attention):
    """For rows that are padded, and for full ones."""
    kind, _, shape = which
    model, plan, masks = edge_cases(kind, shape, soft=soft, hidden=hidden)
    model.set_attn_implementation(attention)
    batches = [inputs(model, padded=padded) for padded in (True, False)]
    assert_cut_equals_masked(model, plan, masks, batches=batches)


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("which", LEADING)
def test_a_model_of_another_attention_is_cut_to_one_of_sdpa(which, attention):
    """Of flex attention masks are no tensors, of flash attention they are `(batch, tokens)`."""
    model = tiny(*which)
    space = Space(model, "head", "ffn")
    plan = Plan.of(space, random_masks(space))
    batch = inputs(model)
    masked = under_masks(model, space, plan.masks, batch)
    for config in {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }.values():
        config._attn_implementation = attention
    small = cut(model, plan)
    assert_same(everything(small, batch), masked)
    small.set_attn_implementation(attention)
    assert_same(everything(small, batch), masked)


@pytest.mark.parametrize("which", LEADING)
def test_everything_removed(which):
    model = tiny(*which)
    for units in UNIT_SETS:
        space = Space(model, *units)
        masks = torch.zeros(len(space))
        if "hidden" in space.slices:
            masks[space.slices["hidden"].start : space.slices["hidden"].start + 2] = 1.0
        assert_cut_equals_masked(model, Plan.of(space, masks))


@pytest.mark.parametrize("rows", [None, "int8"])
@pytest.mark.parametrize("which", READERS)
def test_factorised_embeddings(which, rows):
    model = tiny(*which)
    space = Space(model, "ffn", "hidden")
    masks = random_masks(space, soft=True)
    small = cut(model, Plan.of(space, masks, embedding_rank=5, embedding_rows=rows))
    low_rank = factorise(model, 5)
    planned = Plan.of(Space(low_rank, "ffn", "hidden"), masks, embedding_rows=rows)
    assert_cut_equals_masked(low_rank, planned)
    batch = inputs(model)
    assert_same(everything(small, batch), everything(cut(low_rank, planned), batch))


@pytest.mark.parametrize("which", SHARING)
def test_a_vocabulary_that_is_cut_too(which):
    model = tiny(*which)
    space, vocabulary = Space(model, "ffn", "qk", "vo", "hidden"), every_second(model)
    plan = Plan.of(space, random_masks(space, soft=True), vocabulary=vocabulary)
    old, new = in_both_numbers(inputs(model), vocabulary)
    small = everything(cut(model, plan), new)
    masked = of_kept_pieces(under_masks(model, space, plan.masks, old), vocabulary)
    assert_same(small, of_kept_stream(masked, small, space, plan))


@pytest.mark.parametrize("which", READERS)
def test_embeddings_in_int8(which):
    """The masked model has the rounded values; rounding what was rounded changes no bit."""
    model = tiny(*which)
    space = Space(model, "ffn", "hidden")
    plan = Plan.of(space, random_masks(space, soft=True), embedding_rows="int8")
    assert_cut_equals_masked(model, plan)
    dense, again = uncut(small := cut(model, plan))
    twice = cut(dense, again).state_dict()
    assert [name for name, tensor in small.state_dict().items() if not torch.equal(tensor, twice[name])] == []


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", WRITERS)
def test_an_output_that_is_not_tied_to_the_embeddings(which, soft):
    model = tiny(*which)
    model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    space = Space(model, "hidden", "ffn")
    assert_cut_equals_masked(model, Plan.of(space, random_masks(space, soft=soft)))


@pytest.mark.parametrize("which", LEADING)
def test_cutting_leaves_the_model_as_it_was(which):
    model = tiny(*which)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = Space(model)
    cut(model, Plan.of(space, random_masks(space)))
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert getattr(model.config, "secateur", None) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_layout_is_exact(kind, layout):
    model, plan, masks = edge_cases(kind)
    space = plan.space(model)
    layouts = laid_out(plan, space, LAYOUTS[layout])
    assert_cut_equals_masked(model, Plan.of(space, masks, layouts=layouts), masks)
