"""Word embeddings in int8: the bound of the error, exact products, rounding twice, casts, training around them."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from kept_pieces import every_second, in_both_numbers, of_kept_pieces
from tiny_models import WRITERS, inputs, outputs, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.int8_rows import quantised, rounded
from secateur.surgery.quantisation import quantise_embeddings
from secateur.surgery.uncut import uncut
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.surgery.word_embeddings import quantised_tables
from secateur.system.errors import UserError

VALUES = st.one_of(
    st.just(0.0), st.floats(2.0**-100, 2.0**100, width=32), st.floats(-(2.0**100), -(2.0**-100), width=32)
)
TABLES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=VALUES)


@given(TABLES)
def test_a_value_is_off_by_less_than_half_a_percent_of_its_rows_largest(table):
    values = torch.from_numpy(table)
    rows, scale = quantised(values)
    assert (rows.dtype, scale.dtype) == (torch.int8, torch.float32) and int(rows.abs().max()) <= 127
    error = (values.double() - rows.double() * scale.double()[:, None]).abs()
    assert bool((error <= 0.004 * values.double().abs().amax(dim=1, keepdim=True)).all())
    assert bool((scale[values.abs().amax(dim=1) == 0] == 1).all())


@given(TABLES)
def test_a_product_is_exact_in_fp32_and_rounding_twice_changes_nothing(table):
    rows, scale = quantised(torch.from_numpy(table))
    assert torch.equal((rows.float() * scale[:, None]).double(), rows.double() * scale.double()[:, None])
    once = rounded(torch.from_numpy(table))
    assert torch.equal(rounded(once), once)
    assert all(map(torch.equal, quantised(once), (rows, scale)))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite cannot be stored in int8"):
        quantised(torch.tensor([[1.0, float("nan")]]))


@pytest.fixture(scope="module")
def small():
    """A tiny BERT with nothing but its word embeddings changed."""
    return quantise_embeddings(tiny("bert", dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_keeps_its_rows_and_scales_and_computes_in_the_type(small, dtype, tmp_path):
    (table,) = quantised_tables(small).values()
    save(small, tmp_path / "model")
    loaded = type(small).from_pretrained(tmp_path / "model", dtype=dtype)
    for twin in (copy.deepcopy(small).to(dtype), copy.deepcopy(small).half().to(dtype), loaded):
        (own,) = quantised_tables(twin).values()
        assert torch.equal(own.rows, table.rows) and torch.equal(own.scale, table.scale)
        assert outputs(twin, inputs(twin))[0]["logits"].dtype == dtype
    (again,) = quantised_tables(loaded.float()).values()
    assert torch.equal(again.values(), table.values())


def test_the_modules_around_the_rows_are_trained(small):
    trained = copy.deepcopy(small).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1)
    trained(**inputs(trained), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
    optimizer.step()
    (table,), (before,) = quantised_tables(trained).values(), quantised_tables(small).values()
    assert torch.equal(table.values(), before.values())
    assert not torch.equal(trained.classifier.weight, small.classifier.weight)


def test_a_compact_model_is_quantised_as_its_cut_would_be():
    model = tiny("bert", dtype=torch.float32)
    space = Space(model, "ffn", "hidden")
    masks = space.ones()
    masks[::3] = 0.0
    at_once = cut(model, Plan.of(space, masks, embedding_rank=5, embedding_rows="int8"))
    later = quantise_embeddings(cut(model, Plan.of(space, masks, embedding_rank=5)))
    assert (later.plan, later.config.secateur) == (at_once.plan, at_once.config.secateur)
    state = later.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in at_once.state_dict().items())
    with pytest.raises(UserError, match="not in int8 yet"):
        quantise_embeddings(later)


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_pieces_are_cut_out_of_a_thin_compact_model(kind, tmp_path):
    model = tiny(kind, dtype=torch.float32)
    space, vocabulary = Space(model, "ffn"), every_second(model)
    small = cut(model, Plan.of(space, space.ones(), embedding_rank=5, embedding_rows="int8"))
    fewer = with_pieces(small, vocabulary)
    save(fewer, tmp_path / "model")
    state = load(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fewer.state_dict().items())
    old, new = in_both_numbers(inputs(model), vocabulary)
    expected = of_kept_pieces(outputs(small, old)[0], vocabulary)
    for name, value in outputs(fewer, new)[0].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", WRITERS)
def test_encoder_decoder_and_output_layer_share_the_rows(which, tmp_path):
    small = quantise_embeddings(tiny(*which, dtype=torch.float32))
    dense, _ = uncut(small)
    said, expected = (outputs(model, inputs(model))[0]["logits"] for model in (small, dense))
    torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-4)
    assert (
        small.generate(**{k: v for k, v in inputs(small).items() if "decoder" not in k}, max_new_tokens=3).shape[0] == 3
    )
    save(small, tmp_path / "model")
    load(tmp_path / "model").tie_weights()
