"""The roofline: its arithmetic at given rates, and the counts of a model. Nothing is timed."""

import json

import pytest
import torch
from tiny_models import edge_cases, inputs, tiny
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from secateur.measure import roofline
from secateur.measure.random_inputs import random_inputs
from secateur.measure.roofline import Rates, Work, floor, work
from secateur.structure import cost
from secateur.structure.binding import bind
from secateur.surgery.cut import cut

RATES = Rates(flops=100e9, bandwidth=10e9, product="fp32 torch.mm, 8 x 8")
HIDDEN, LAYERS, FFN, WORDS = 16, 2, 24, 50


def bert(**changes):
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": FFN,
        "max_position_embeddings": 32,
    }
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes | changes)).eval()


def counted(model, batch=2, tokens=7):
    ids = random_inputs(WORDS, batch, tokens)
    return work(model, {name: torch.from_numpy(array) for name, array in ids.items()})


def test_the_longer_of_arithmetic_and_traffic_sets_the_floor():
    busy = floor(Work(flops=10**9, weights=1000, activations=0), "fp32", RATES)
    assert (busy.floor_ms, busy.bound) == (pytest.approx(10.0), "arithmetic")
    wide = floor(Work(flops=1000, weights=20_000_000, activations=2_500_000), "fp32", RATES)
    assert (wide.floor_ms, wide.bound, wide.bytes) == (pytest.approx(10.0), "traffic", 100_000_000)
    assert json.loads(json.dumps(wide.to_dict()))["rates"]["product"] == RATES.product


@pytest.mark.parametrize(("dtype", "moved"), [("fp32", 4 + 80), ("bf16", 2 + 40), ("fp16", 2 + 40), ("int8", 1 + 80)])
def test_weights_move_once_and_hidden_states_twice(dtype, moved):
    assert Work(flops=0, weights=1, activations=10).bytes(dtype) == moved


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_operations_are_those_of_the_table_whatever_the_attention(attention):
    model, batch, tokens = bert(attn_implementation=attention), 2, 7
    table = bind(model)
    head = 2 * batch * HIDDEN * (HIDDEN + model.config.num_labels)
    assert counted(model, batch, tokens).flops == batch * cost.flops(table, cost.full(table), tokens) + head


def test_only_looked_up_rows_of_an_embedding_count():
    model = bert()
    batch, tokens = 2, 7
    ids = random_inputs(WORDS, batch, tokens)["input_ids"]
    tables = sum(p.numel() for name, p in model.named_parameters() if name.endswith("embeddings.weight"))
    rest = sum(parameter.numel() for parameter in model.parameters()) - tables
    rows = len(set(ids.flatten().tolist())) + tokens + 1  # words, positions, one token type
    assert counted(model, batch, tokens).weights == rest + rows * HIDDEN


@pytest.mark.parametrize("kind", ["bart", "marian"])
def test_positions_of_an_encoder_decoder_count_as_far_as_its_texts_go(kind):
    """One of these modules is given a shape and the other one ids, and both compute the positions themselves."""
    model, tokens = tiny(kind, "ForConditionalGeneration" if kind == "bart" else "MTModel", dtype=torch.float32), 7
    tables = [module for name, module in model.named_modules() if name.endswith("embed_positions")]
    unread = sum(table.weight.numel() - tokens * table.weight.shape[1] for table in tables)
    assert len(tables) == 2 and counted(model, 2, tokens).weights == model.num_parameters() - unread


def test_an_embedding_tied_to_a_linear_is_read_as_a_whole_and_once():
    model, tokens = bert(), 7
    model.classifier = torch.nn.Linear(HIDDEN, WORDS, bias=False)
    model.classifier.weight = model.bert.embeddings.word_embeddings.weight
    unread = (32 - tokens + 1) * HIDDEN  # positions, and one of two token types
    assert counted(model, 2, tokens).weights == model.num_parameters() - unread


def test_hidden_states_before_and_after_each_layer_are_activations():
    assert counted(bert(), 2, 7).activations == (LAYERS + 1) * 2 * 7 * HIDDEN


def test_a_cut_model_has_fewer_operations_and_weights():
    from secateur import Magnitude, Space

    model = bert()
    small = cut(model, Magnitude(Space(model, "ffn")).plan(0.8))
    assert counted(small).flops < counted(model).flops
    assert counted(small).weights < counted(model).weights


def test_counting_leaves_no_hooks():
    model = bert()
    counted(model)
    assert not any(module._forward_hooks for module in model.modules())


# The rates of the machine, from given times


@pytest.fixture
def machine(monkeypatch):
    """Rates from made-up seconds of each product, and of the copy."""

    def measured(dtype, copied=1.0, **seconds):
        calls = {name: (lambda: None) for name in seconds}
        taken = {id(call): seconds[name] for name, call in calls.items()}
        monkeypatch.setattr(roofline, "_products", lambda *_: calls)
        monkeypatch.setattr(roofline, "_fastest", lambda call, device: taken.get(id(call), copied))
        return roofline.rates.__wrapped__(dtype, 1)

    return measured


def test_the_faster_product_is_the_rate(machine):
    rates = machine("fp32", slow=2.0, fast=0.5)
    assert rates.flops == 2 * 1024**3 / 0.5
    assert rates.product == "fast, 1024 x 1024"


def test_a_copy_counts_reads_and_writes(machine):
    assert machine("fp32", copied=0.25, any=1.0).bandwidth == 2 * roofline.COPY_BYTES / 0.25


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "int8"])
def test_each_dtype_has_a_product_with_its_name(dtype):
    products = roofline._products(dtype, 32, torch.device("cpu"))
    assert any(name.startswith(dtype) for name in products)
    assert {name.split()[0] for name in products} <= {dtype, "fp32"}
    assert all(product() is not None for product in products.values())


def test_without_an_int8_product_the_rate_is_fp32_by_name(monkeypatch):
    monkeypatch.delattr(torch, "_int_mm")
    assert all(name.startswith("fp32") for name in roofline._products("int8", 32, torch.device("cpu")))


def test_rates_are_measured_once(monkeypatch):
    measured = []
    monkeypatch.setattr(roofline, "_fastest", lambda call, device: measured.append(call) or 1.0)
    roofline.rates.cache_clear()
    try:
        assert roofline.rates("fp32", 1) is roofline.rates("fp32", 1)
        once = len(measured)
        assert roofline.rates("fp32", 2) is not roofline.rates("fp32", 1)
        assert len(measured) == 2 * once
    finally:
        roofline.rates.cache_clear()


def test_a_model_without_hidden_states_has_no_floor():
    class Bare(BertForSequenceClassification):
        def forward(self, *args, **kwargs):
            return SequenceClassifierOutput(logits=super().forward(*args, **kwargs).logits)

    assert counted(Bare(bert().config)) is None


def test_models_with_removed_sublayers_can_be_counted():
    """A sublayer that keeps only its output bias returns a view of a parameter."""
    small = cut(*edge_cases("bert")[:2])
    counted = work(small, inputs(small))
    assert counted.flops > 0 and all(parameter.requires_grad for parameter in small.parameters())
