"""A uniform cut is saved as a stock checkpoint that computes the same; any other shape is refused."""

import pytest
import torch
import transformers
from tiny_models import CLASSIFIERS, inputs, outputs, tiny
from transformers import AutoModelForCausalLM

from secateur.budget.space import Space
from secateur.budget.uniform import UniformParameters
from secateur.methods.cofi import Cofi
from secateur.structure.plan import Plan
from secateur.surgery.auto_classes import AUTO_CLASSES
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.opening import open_model
from secateur.surgery.stock import plain
from secateur.system.errors import UserError

SHAPE = {"layer": 2, "ffn": 20}


@pytest.mark.parametrize("which", CLASSIFIERS)
def test_a_uniform_cut_is_a_stock_model(which, tmp_path):
    model = tiny(*which, num_hidden_layers=4)
    space = Space(model, "layer", "ffn")
    method = Cofi(space, shape=SHAPE, seed=1)
    with torch.no_grad():
        method.log_alpha.uniform_(-3.0, 3.0, generator=torch.Generator().manual_seed(1))
    small = cut(model, method.plan(1.0))
    stock = plain(small)
    assert type(stock) is type(model)
    assert (stock.config.num_hidden_layers, getattr(stock.config, "secateur", None)) == (2, None)
    stock.save_pretrained(tmp_path)
    loaded = getattr(transformers, AUTO_CLASSES[which[1]]).from_pretrained(tmp_path, dtype=torch.float64).eval()
    batch = inputs(model)
    exactly = 1e-6 if which[0] == "llama" else 1e-12  # the loaded model takes its RMSNorm in single precision
    torch.testing.assert_close(outputs(loaded, batch)[0], outputs(small, batch)[0], rtol=exactly, atol=exactly)


def test_a_uniform_cut_keeps_its_sentence_head(tmp_path):
    model = tiny("bert", "Sentence")
    space = Space(model, "layer")
    masks = space.ones()
    masks[0] = 0.0
    small = cut(model, Plan.of(space, masks))
    save(plain(small), tmp_path)
    loaded, batch = open_model(tmp_path).double(), inputs(model)
    assert type(loaded) is type(model) and loaded.config.num_hidden_layers == 1
    torch.testing.assert_close(loaded(**batch)[0], small(**batch)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("units", "removed", "what"),
    [
        (("ffn",), {"0.ffn": 3}, "FFN widths"),
        (("head",), {"0.head": 1, "1.head": 1}, r"0.qk \(24 of 32\)"),
        (("sublayer",), {"1.attention": 1}, r"1.qk \(0 of 32\)"),
        (("hidden",), {"hidden": 4}, r"hidden \(28 of 32\)"),
    ],
)
def test_a_shape_that_the_config_cannot_describe_is_refused(units, removed, what):
    model = tiny("bert")
    space = Space(model, *units)
    masks = space.ones()
    for name, count in removed.items():
        masks[space.slices[name]][:count] = 0.0
    with pytest.raises(UserError, match=f"cannot describe {what}"):
        plain(cut(model, Plan.of(space, masks)))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_uniform_decoder_is_a_stock_model_with_fewer_heads_and_a_narrower_stream(kind, tmp_path):
    sizes = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = tiny(kind, "ForCausalLM", dtype=torch.float32, **sizes)
    units = ("kv_head", "ffn") if kind == "llama" else ("kv_head", "ffn", "hidden")
    space = Space(model, *units, budget=UniformParameters(), round_to=8)
    small = cut(model, Plan.of(space, space.choose(torch.rand(len(space)), density=0.5).float()))
    plain(small).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not hasattr(loaded.config, "secateur")
    assert loaded.config.num_attention_heads == 2 * loaded.config.num_key_value_heads < 8
    assert (loaded.config.hidden_size < 64) == ("hidden" in units) and loaded.num_parameters() == small.num_parameters()
    torch.testing.assert_close(loaded(**inputs(model)).logits, small(**inputs(model)).logits, rtol=1e-4, atol=1e-4)
    written = [one.generate(**inputs(model), max_new_tokens=4, do_sample=False) for one in (loaded, small)]
    assert torch.equal(*written)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_uniform_decoder_with_tied_embeddings_is_a_stock_model(kind, tmp_path):
    model = tiny(kind, "ForCausalLM", dtype=torch.float32, num_hidden_layers=3, tie_word_embeddings=True)
    space = Space(model, "layer", "ffn")
    masks = space.ones()
    masks[space.slices["1.layer"]] = 0.0
    for group in space.groups:
        if group.kind == "ffn":
            masks[space.slices[group.name]][::2] = 0.0
    small = cut(model, Plan.of(space, masks))
    plain(small).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert loaded.num_parameters() == small.num_parameters() and loaded.config.num_hidden_layers == 2
    torch.testing.assert_close(loaded(**inputs(model)).logits, small(**inputs(model)).logits, rtol=1e-4, atol=1e-4)


def test_only_a_name_in_a_layer_is_put_down_to_the_first_layer():
    model = tiny("modernbert")
    space = Space(model, "layer")
    masks = space.ones()
    masks[space.slices["0.layer"]] = 0.0
    with pytest.raises(UserError, match=r"first layer is layer 1 \(.*attn_norm.*\): keep the first layer"):
        plain(cut(model, Plan.of(space, masks)))
    small = cut(model, Plan.of(space, space.ones()))
    small.model.register_buffer("scale", torch.ones(1))
    with pytest.raises(UserError, match=r"cannot describe this model \(model.scale.*\): save the compact model"):
        plain(small)


def test_a_uniform_encoder_of_images_is_a_stock_model_with_fewer_heads_and_a_narrower_stream(tmp_path):
    model = tiny("vit", num_hidden_layers=3, dtype=torch.float32)
    space = Space(model, "head", "ffn", "hidden", budget=UniformParameters(), round_to=8)
    small = cut(model, Plan.of(space, space.choose(torch.rand(len(space)), density=0.4).float()))
    plain(small).save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not hasattr(loaded.config, "secateur")
    assert loaded.config.num_attention_heads < 4 and loaded.config.head_dim == 8 and loaded.config.hidden_size < 32
    torch.testing.assert_close(loaded(**inputs(model)).logits, small(**inputs(model)).logits, rtol=1e-4, atol=1e-4)


def test_a_number_of_heads_that_transformers_does_not_allow_for_llama_is_refused():
    model = tiny("llama", num_attention_heads=8, num_key_value_heads=4, hidden_size=32)
    space = Space(model, "kv_head")
    masks = space.ones()
    masks[[0, 4]] = 0.0  # three keys for six heads are left in both layers, and 32 is no multiple of 6
    with pytest.raises(UserError, match=r"cannot describe what is kept.*not a multiple.*save the compact model"):
        plain(cut(model, Plan.of(space, masks)))


@pytest.mark.parametrize(
    ("units", "removed", "what"),
    [
        (("head",), {"0.head": 1}, r"heads \[\(1, 2\), \(2, 2\)\] of the keys of its layers"),
        (("kv_head",), {"0.kv_head": 1}, r"heads \[\(2,\), \(2, 2\)\] of the keys of its layers"),
        (("vo",), {"0.vo": 1, "1.vo": 1}, r"0.vo \(30 of 32\)"),
    ],
)
def test_heads_that_differ_from_layer_to_layer_are_refused(units, removed, what):
    model = tiny("llama")
    space = Space(model, *units)
    masks = space.ones()
    for name, count in removed.items():
        masks[space.slices[name]][:count] = 0.0
    with pytest.raises(UserError, match=f"cannot describe {what}"):
        plain(cut(model, Plan.of(space, masks)))


def test_a_dense_model_is_refused():
    with pytest.raises(UserError, match="no plan"):
        plain(tiny("bert"))
