"""DeBERTa's attention: each choice of terms, inputs of every kind, and what is refused."""

import pytest
import torch
from law_assertions import assert_cut_equals_masked, everything
from tiny_models import DEBERTA, every_kind_of_inputs, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.deploy.export import export
from secateur.structure.plan import Plan
from secateur.structure.positions import positions
from secateur.surgery.compact.disentangled import DisentangledAttention
from secateur.surgery.cut import cut
from secateur.system.errors import UserError
from secateur.tasks.rows import check_length

SHARED = {"share_att_key": True, "embedding_size": 32}
TERMS = {
    "neither": {"pos_att_type": None, **SHARED},
    "content to position": {"pos_att_type": ["c2p"], **SHARED},
    "position to content": {"pos_att_type": "p2c", **SHARED},
    "projections of their own": {"pos_att_type": "p2c"},
    "a key of its own": {"pos_att_type": ["c2p"]},
    "in buckets": {"position_buckets": 2, "max_relative_positions": 30},
    "in wide buckets": {"position_buckets": 6, "max_relative_positions": -1, **SHARED},
    "no positions in scores": {"relative_attention": False, "position_biased_input": False},
}


def model_of(terms, **more):
    return tiny("deberta-v2", shape=1, **DEBERTA | {"position_biased_input": True} | TERMS[terms], **more)


@pytest.mark.filterwarnings("ignore:We strongly recommend passing in an `attention_mask`")
@pytest.mark.parametrize("terms", TERMS)
def test_cut_equals_masked_for_every_choice_of_terms_and_inputs(terms):
    model = model_of(terms)
    space = Space(model, "ffn", "qk", "vo", "head")
    masks = random_masks(space, 0.7, soft=True)
    assert_cut_equals_masked(model, Plan.of(space, masks), masks, batches=every_kind_of_inputs(model))


@pytest.mark.parametrize("terms", ["position to content", "projections of their own", "a key of its own"])
def test_tiles_of_projections_of_positions(terms):
    """A QK dim lives on in the products whose weights keep a tile for it."""
    model = model_of(terms)
    space = Space(model, "attention/2x32")
    masks = random_masks(space, 0.4)
    assert_cut_equals_masked(model, Plan.of(space, masks), masks)


def test_a_query_without_keys_attends_to_all_alike_in_half_precision():
    """There the least number is so small that its sum with a score is another number, or infinite."""
    model = model_of("in buckets", dtype=torch.float16)
    space = Space(model, "qk")
    small = cut(model, Plan.of(space, random_masks(space, 0.8)))
    attention = small.get_submodule(space.table.attentions[0].path)
    states = 40 * torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)).half()
    mask = torch.ones(1, 1, 5, 5).tril(-1)
    distances = (torch.arange(5)[:, None] - torch.arange(5)).clamp(-1, 1)[None]
    with torch.no_grad():
        found, _ = attention(states, mask, relative_pos=distances, rel_embeddings=torch.randn(4, 32).half())
        values = attention.value_proj(states)
    torch.testing.assert_close(found[:, 0], values.mean(1), rtol=0.01, atol=0.1)
    torch.testing.assert_close(found[:, 1], values[:, 0], rtol=0.01, atol=0.1)


def test_relative_embeddings_are_dropped_in_training_alone():
    model = model_of("in buckets")
    space = Space(model, "qk")
    small = cut(model, Plan.of(space, random_masks(space, 0.8)))
    for module in small.modules():
        if isinstance(module, DisentangledAttention):
            module.pos_dropout.p = 0.5
    batch = inputs(model)
    quiet = [everything(small, batch)["logits"] for _ in range(2)]
    assert torch.equal(*quiet)
    small.train()
    drawn = [everything(small, batch)["logits"] for _ in range(2)]
    assert not torch.equal(*drawn) and not torch.equal(drawn[0], quiet[0])


def test_int8_of_heads_without_qk_dims(tmp_path):
    """Their queries and keys have equal weights, of which an exported file has one."""
    model = tiny("deberta-v2", dtype=torch.float32)
    space = Space(model, "qk")
    small = cut(model, Plan.of(space, torch.zeros(len(space))))
    found = export(small, tmp_path / "model.onnx", dtype="int8")
    assert 0 < found.difference < 0.2 * found.scale


def test_a_convolution_is_refused():
    with pytest.raises(
        UserError, match=r"^this deberta-v2 model has a convolution \(`conv_kernel_size`\), which is not"
    ):
        Space(model_of("in buckets", conv_kernel_size=3))


def test_a_model_of_relative_positions_alone_reads_more_tokens_than_its_config_names():
    model = tiny("deberta-v2")  # as v3: of 40 positions, in 4 buckets
    space = Space(model, "ffn", "qk")
    long = {name: value.repeat(1, 12) for name, value in inputs(model, padded=False).items()}
    for one in (model, cut(model, Plan.of(space, random_masks(space, 0.7)))):
        assert positions(one) is None
        check_length(84, model=one)
        with torch.no_grad():
            assert one(**long).logits.isfinite().all()
    with pytest.raises(UserError, match="max_length is 84: give at most 40, which the model takes"):
        check_length(84, model=tiny("deberta-v2", shape=1))  # which has a table of positions too
