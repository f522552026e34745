"""Binding an architecture to a model: every parameter is labelled, and models that it does not describe are refused."""

from inspect import Parameter, signature
from typing import get_args

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BartModel,
    BertConfig,
    BertForSequenceClassification,
    ErnieConfig,
    ErnieForSequenceClassification,
    T5Config,
    T5EncoderModel,
)

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.structure import architectures
from secateur.structure.architecture import Call, Embedding, Linear, Norm, Patches
from secateur.structure.binding import bind
from secateur.structure.plan import Plan
from secateur.surgery.compact.attention_calls import ATTENTIONS
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.stock import plain
from secateur.system.errors import UserError

HEADS = (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
)
FAMILIES = architectures.ARCHITECTURES.all()
DECODERS = [kind for kind, family in FAMILIES.items() if "ForCausalLM" in family.heads]
OF_IMAGES = [kind for kind, family in FAMILIES.items() if "ForImageClassification" in family.heads]
OTHERS = {*DECODERS, *OF_IMAGES}
ENCODERS = [kind for kind, family in FAMILIES.items() if len(family.stacks) == 1 and kind not in OTHERS]
ENCODER_DECODERS = sorted({*FAMILIES} - {*ENCODERS, *OTHERS})
KINDS = [(kind, auto) for kind in ENCODERS for auto in HEADS]
KINDS += [(kind, auto) for kind in DECODERS for auto in (*HEADS[:2], AutoModelForCausalLM)]
KINDS += [(kind, auto) for kind in ENCODER_DECODERS for auto in (AutoModel, AutoModelForSeq2SeqLM)]
IMAGES = [(kind, auto) for kind in OF_IMAGES for auto in (AutoModel, AutoModelForImageClassification)]
# Sizes that are all different, so that no axis can pass for another.
SIZES = {
    "vocab_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 6,
}
# The keys of families whose configs have other names for these sizes.
OTHER = {
    "distilbert": {"n_layers": 2, "n_heads": 2, "dim": 8, "hidden_dim": 6, "vocab_size": 30},
    "electra": {**SIZES, "embedding_size": 5},
    "modernbert": {**SIZES, **dict.fromkeys((f"{name}_token_id" for name in ("pad", "bos", "cls", "eos", "sep")), 0)},
    "deberta-v2": {**SIZES, "embedding_size": 5, "relative_attention": True, "pos_att_type": "c2p|p2c"},
}
DECODER = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "pad_token_id": 0}
OTHER |= {kind: DECODER for kind in DECODERS}
ENCODER_DECODER = {"d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 30, "pad_token_id": 0}
ENCODER_DECODER |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
ENCODER_DECODER |= {"encoder_ffn_dim": 6, "decoder_ffn_dim": 7}
OTHER |= {"bart": ENCODER_DECODER, "marian": ENCODER_DECODER}
OTHER["deit"] = SIZES | {"architectures": ["DeiTForImageClassification"]}  # the AutoModel has two classes for it
OTHER["t5"] = {"d_model": 8, "d_kv": 3, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2, "d_ff": 6}
OTHER["t5"] |= {"vocab_size": 30}


def tiny(kind, auto=AutoModelForSequenceClassification, **more):
    sizes = OTHER.get(kind, SIZES)
    return auto.from_config(AutoConfig.for_model(kind, **sizes, max_position_embeddings=12, **more))


@pytest.fixture
def bert():
    return tiny("bert")


# The table of a model


@pytest.mark.parametrize(("kind", "auto"), [*KINDS, *IMAGES])
def test_every_parameter_is_labelled_once_with_the_size_that_it_has(kind, auto):
    model = tiny(kind, auto)
    table = bind(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    parts = {name: [part.shape for part in own] for name, own in table.tensors.items()}
    assert {name: (sum(one[0] for one in own), *own[0][1:]) for name, own in parts.items()} == shapes
    assert all(len(own) == 1 or own[0].row.parts == len(own) for own in table.tensors.values())
    for parameter in table.parameters:
        assert len(parameter.axes) == len(parameter.shape)
        for axis, size in zip(parameter.axes, parameter.shape, strict=True):
            assert axis is None or {**table.sizes, **table.vocabularies}[axis] == size


@pytest.mark.parametrize(("kind", "auto"), KINDS)
def test_every_dimension_of_pieces_lies_on_the_vocabulary(kind, auto):
    model = tiny(kind, auto)
    table = bind(model)
    assert table.vocabularies == {"vocabulary": 30}
    labelled = {parameter.name: parameter.axes for parameter in table.parameters} | table.buffers
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        of_pieces = [dim for dim, size in enumerate(tensor.shape) if size == 30]
        assert [dim for dim, axis in enumerate(labelled.get(name, ())) if axis == "vocabulary"] == of_pieces, name


def test_a_decoder_with_embeddings_of_its_own_has_its_own_vocabulary():
    table = bind(tiny("marian", AutoModelForSeq2SeqLM, share_encoder_decoder_embeddings=False, decoder_vocab_size=40))
    assert table.vocabularies == {"vocabulary": 30, "target_vocabulary": 40}
    assert table.buffers == {"final_logits_bias": (None, "target_vocabulary")}


def test_the_vocabulary_counts_as_what_is_never_pruned():
    model = tiny("bart", AutoModelForSeq2SeqLM)
    space = Space(model, "hidden", "ffn")
    assert "vocabulary" not in space.lengths(space.ones())
    assert space.total("model") == sum(parameter.numel() for parameter in model.parameters())
    assert not any(parameter.inner for parameter in space.table.parameters if parameter.layer is None)


@pytest.mark.parametrize(("kind", "auto"), [*KINDS, *IMAGES])
def test_rows_lead_to_modules_of_their_kind(kind, auto):
    model = tiny(kind, auto)
    for row in bind(model).rows:
        kinds = {Linear: nn.Linear, Norm: nn.LayerNorm, Embedding: nn.Embedding, Patches: nn.Module}
        module = model.get_submodule(row.path)
        if getattr(row, "centred", True):
            assert isinstance(module, kinds[type(row)])
        else:
            assert hasattr(module, "variance_epsilon") and not hasattr(module, "bias")  # an RMSNorm


@pytest.mark.parametrize("kind", ENCODERS)
def test_axes_and_sizes(kind):
    table = bind(tiny(kind))
    assert (table.layers, table.heads, table.head_dim) == (("0", "1"), 2, 4)
    inner = {f"{layer}.{axis}": size for layer in range(2) for axis, size in [("qk", 8), ("vo", 8), ("ffn", 6)]}
    assert table.sizes == {"hidden": 8, **inner}


@pytest.mark.parametrize("kind", DECODERS)
def test_axes_of_heads_that_share_keys_and_values(kind):
    table = bind(tiny(kind))
    assert (table.layers, table.heads, table.kv_heads, table.head_dim) == (("0", "1"), 4, 2, 2)
    axes = [("qk", 8), ("vo", 8), ("key", 4), ("value", 4), ("ffn", 6)]
    assert table.sizes == {"hidden": 8, **{f"{layer}.{axis}": size for layer in range(2) for axis, size in axes}}
    assert table.kv_axes == {
        f"{n}.{own}": f"{n}.{kv}" for n in range(2) for own, kv in (("qk", "key"), ("vo", "value"))
    }
    assert {sublayer.axes for sublayer in table.sublayers if sublayer.layer == "0"} == {
        ("0.key", "0.value", "0.qk", "0.vo"),
        ("0.ffn",),
    }


@pytest.mark.parametrize(("kind", "inner", "neurons"), [("bart", 8, 7), ("marian", 8, 7), ("t5", 6, 6)])
def test_axes_of_an_encoder_and_a_decoder(kind, inner, neurons):
    table = bind(tiny(kind, AutoModelForSeq2SeqLM))
    assert (table.layers, table.heads) == (("encoder.0", "encoder.1", "decoder.0"), 2)
    order = ["encoder.0", "encoder.1", "decoder.0.cross", "decoder.0"]
    assert [attention.block for attention in table.attentions] == order
    expected = {f"{block}.{axis}": inner for block in order for axis in ("qk", "vo")}
    expected |= {"encoder.0.ffn": 6, "encoder.1.ffn": 6, "decoder.0.ffn": neurons}
    assert table.sizes == {"hidden": 8, **expected}
    assert table.blocks == ("encoder.0", "encoder.1", "decoder.0", "decoder.0.cross")
    gates = {sublayer.gate for sublayer in table.sublayers if sublayer.layer == "decoder.0"}
    assert gates == {"decoder.0.attention", "decoder.0.cross.attention", "decoder.0.mlp"}


@pytest.mark.parametrize(("kind", "tied", "tables"), [("bart", True, 1), ("bart", False, 4), ("marian", False, 3)])
def test_a_weight_that_modules_share_counts_once(kind, tied, tables):
    separate = {} if tied else {"tie_word_embeddings": False, "share_encoder_decoder_embeddings": False}
    table = bind(tiny(kind, AutoModelForSeq2SeqLM, **separate))
    assert sum(parameter.shape == (30, 8) for parameter in table.parameters) == tables
    assert next(row for row in table.rows if row.path == "lm_head").tied is tied


def test_makers_readers_and_writers(bert):
    table = bind(bert)
    start = "bert.encoder.layer.1."
    assert [row.path for row in table.makers("1.qk")] == [
        start + "attention.self.query",
        start + "attention.self.key",
    ]
    assert [row.path for row in table.makers("1.ffn")] == [start + "intermediate.dense"]
    assert table.reader("1.vo").path == table.writer("1.attention").path == start + "attention.output.dense"
    assert table.reader("1.ffn").path == table.writer("1.mlp").path == start + "output.dense"
    assert table.attentions[1].path == start + "attention.self"
    assert table.embeddings == "bert.embeddings.word_embeddings"


@pytest.mark.parametrize(("width", "axes"), [(5, ("vocabulary", None)), (8, ("vocabulary", "hidden"))])
def test_embeddings_of_electra_are_on_the_residual_stream_only_if_they_are_not_projected(width, axes):
    config = AutoConfig.for_model("electra", **SIZES, embedding_size=width)
    parameters = bind(AutoModelForSequenceClassification.from_config(config)).parameters
    assert next(p.axes for p in parameters if p.name.endswith("word_embeddings.weight")) == axes


def test_a_model_on_the_meta_device_has_a_table():
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    assert bind(model).sizes["11.ffn"] == 3072


def test_factorised_embeddings_are_labelled(bert):
    table = bind(factorise(bert, 3))
    axes = {p.name.rpartition("word_embeddings.")[2]: p.axes for p in table.parameters if "word_embeddings" in p.name}
    assert axes == {"table.weight": ("vocabulary", None), "projection.weight": ("hidden", None)}


# Models that are refused


def test_a_parameter_that_is_not_in_the_table_is_named(bert):
    bert.bert.encoder.layer[1].adapter = nn.Linear(8, 8)
    with pytest.raises(UserError, match=r"2 parameters .*'bert.encoder.layer.1.adapter.weight'.*architectures/bert.py"):
        bind(bert)


def test_a_parameter_of_another_size_is_named(bert):
    bert.bert.encoder.layer[1].output.dense = nn.Linear(7, 8)
    with pytest.raises(UserError, match=r"1.output.dense.weight has size 7 on the axis '1.ffn' .* have 6"):
        bind(bert)


def test_an_unsupported_architecture_names_the_supported_ones():
    config = ErnieConfig(**SIZES)
    with pytest.raises(UserError, match="architecture 'ernie': supported are bart, ") as refusal:
        bind(ErnieForSequenceClassification(config))
    assert all(kind in str(refusal.value) for kind in architectures.ARCHITECTURES.all())


def test_an_unsupported_head_names_the_supported_ones():
    with pytest.raises(UserError, match=r"BertForMaskedLM.*ForSequenceClassification.*ForQuestionAnswering"):
        bind(tiny("bert", AutoModelForMaskedLM))


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_decoder_is_refused(kind):
    with pytest.raises(UserError, match="is_decoder=False"):
        bind(tiny(kind, is_decoder=True))


def test_attentions_with_different_numbers_of_heads_are_refused():
    with pytest.raises(UserError, match="encoder_attention_heads: 2, decoder_attention_heads: 4"):
        bind(BartModel(BartConfig(**ENCODER_DECODER | {"decoder_attention_heads": 4})))


def test_half_of_an_encoder_decoder_is_refused():
    with pytest.raises(UserError, match=r"T5EncoderModel has no layers at decoder\.block"):
        bind(T5EncoderModel(T5Config(**OTHER["t5"])))


def test_a_model_that_was_cut_is_refused(bert):
    space = Space(bert, "ffn")
    masks = space.ones()
    masks[0] = 0
    with pytest.raises(UserError, match="was cut already"):
        bind(cut(bert, Plan.of(space, masks)))


def test_operations_for_one_stack_refuse_an_encoder_decoder():
    model = tiny("t5", AutoModelForSeq2SeqLM)
    space = Space(model, "layer")
    asked = {
        "a plain checkpoint": lambda: plain(cut(model, Plan.of(space, space.ones()))),
        "the published accounting": lambda: Cofi(Space(model, "head", "ffn"), faithful=True),
    }
    for what, ask in asked.items():
        with pytest.raises(UserError, match=rf"^{what} of an encoder-decoder \(t5\) is not supported: use an encoder"):
            ask()


# How an attention is called


def test_each_way_of_calling_an_attention_has_its_class():
    assert set(get_args(Call)) == set(ATTENTIONS)


@pytest.mark.parametrize("kind", architectures.ARCHITECTURES.all())
def test_a_compact_attention_takes_the_arguments_of_the_stock_one(kind):
    """The parameters of its `forward` are the first of the stock module's, under the same names and in order.

    Those that it takes by name alone are somewhere among them.
    """
    model = tiny(kind, AutoModel)
    for attention in bind(model).attentions:
        stock = [*signature(model.get_submodule(attention.path).forward).parameters]
        taken = [*signature(ATTENTIONS[attention.call].forward).parameters.values()][1:-1]  # without self and **kwargs
        by_name = [one.name for one in taken if one.kind is Parameter.KEYWORD_ONLY]
        in_order = [one.name for one in taken if one.name not in by_name]
        assert stock[: len(in_order)] == in_order and set(by_name) <= set(stock)


def test_the_bias_is_looked_up_where_the_table_of_biases_is():
    owners = [attention.path for attention in bind(tiny("t5", AutoModel)).attentions if attention.bias]
    assert owners == ["encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.0.SelfAttention"]
    causal = {attention.block for attention in bind(tiny("t5", AutoModel)).attentions if attention.causal}
    assert causal == {"decoder.0"}
    assert [attention.layer for attention in bind(tiny("bart", AutoModel)).attentions] == [0, 1, 0, 0]
