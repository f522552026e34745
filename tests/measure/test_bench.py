"""The latency of a model: the protocol, the order of calls, and the restored state. No test checks a time."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_models import tiny
from torch import nn
from transformers import (
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from secateur.deploy.runtime import Runner
from secateur.measure import bench
from secateur.measure.bench import grid, measure
from secateur.measure.generation import PARTS
from secateur.measure.measurement import Measurement
from secateur.measure.model_size import disk_bytes
from secateur.measure.prepared_models import random_calibration
from secateur.measure.timing import median_and_quartiles, times_in_turn
from secateur.system.errors import UserError

SHORT = {"batch": 2, "tokens": 7, "repeats": 3, "warmup": 1}
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


@pytest.fixture
def bert():
    return BertForSequenceClassification(BertConfig(**SIZES))


@pytest.fixture
def smaller():
    return BertForSequenceClassification(BertConfig(**SIZES | {"num_hidden_layers": 1}))


class Recorder(nn.Module):
    """Replaces a model; each forward appends its name to a shared list."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, name, calls, vocabulary=50):
        super().__init__()
        self.name, self.calls, self.inputs = name, calls, {}
        self.config = BertConfig(**SIZES | {"vocab_size": vocabulary})

    def forward(self, **inputs):
        self.calls.append(self.name)
        self.inputs = inputs
        self.inference = torch.is_inference_mode_enabled()
        self.autocast = torch.is_autocast_enabled("cpu")
        self.threads = torch.get_num_threads()
        self.was_training = self.training


def test_the_protocol_is_recorded(bert, smaller):
    result = measure(smaller, against=bert, threads=1, **SHORT)
    protocol = result.protocol
    assert {name: protocol[name] for name in SHORT} == SHORT
    assert (protocol["threads"], protocol["dtype"], protocol["device"]) == (1, "float32", "cpu")
    assert (protocol["order"], protocol["attention"]) == ("interleaved", bert.config._attn_implementation)
    assert protocol["runtime"] == f"pytorch {torch.__version__}"
    assert "logical cores" in protocol["machine"]
    assert result.parameters == smaller.num_parameters()
    assert result.against.parameters == bert.num_parameters()
    assert result.against.protocol == protocol


def test_summary_has_two_lines_and_the_protocol(bert, smaller):
    first, second = str(measure(smaller, against=bert, **SHORT)).splitlines()
    assert "x the speed of" in first
    assert "batch 2 x 7 tokens, median of 3" in second
    assert "interleaved" in second


def test_measured_alone(bert):
    result = measure(bert, **SHORT)
    assert (result.against, result.speed_up, result.protocol["order"]) == (None, None, "alone")
    assert "speed" not in str(result)


def test_models_take_turns():
    calls = []
    measure(Recorder("a", calls), Recorder("b", calls), **SHORT)
    assert calls == ["a", "b"] * (SHORT["warmup"] + SHORT["repeats"])


def test_each_timed_call_follows_untimed_ones_of_its_own():
    calls = []
    times = times_in_turn([lambda name=name: calls.append(name) for name in "abc"], repeats=2, warmup=1, settle=2)
    assert "".join(calls) == "abc" + 2 * "aaabbbccc"
    assert [len(own) for own in times] == [2, 2, 2]


def test_median_and_quartiles_of_known_times():
    assert median_and_quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, (2.0, 4.0))


def test_another_runtime_or_dtype_is_a_runner_of_both_models(bert, smaller, monkeypatch):
    calls = []

    def runner(model, runtime, dtype, threads, calibration):
        def run(inputs):
            calls.append((model, tuple(inputs), inputs["input_ids"].shape))

        return Runner(runtime, dtype, f"{runtime} 1.0", threads, ("input_ids", "attention_mask"), 1, run)

    monkeypatch.setattr(bench, "runner", runner)
    monkeypatch.setattr(bench, "check_runtime", lambda runtime, dtype: None)
    found = measure(smaller, bert, runtime="onnxruntime", threads=1, **SHORT)
    assert calls == [(one, ("input_ids", "attention_mask"), (2, 7)) for one in (smaller, bert)] * 4
    assert (found.protocol["runtime"], found.protocol["dtype"]) == ("onnxruntime 1.0", "fp32")
    assert measure(smaller, dtype="bf16", **SHORT).protocol["dtype"] == "bf16"
    assert len(calls) == 12


def test_pytorch_in_bf16_casts_the_weights(bert):
    assert measure(bert, dtype="bf16", **SHORT).protocol["dtype"] == "bf16"
    assert bert.dtype == torch.float32


@pytest.mark.parametrize(("runtime", "origin"), [("openvino", "random ids"), ("onnxruntime", "each batch")])
def test_int8_says_what_determined_the_ranges_of_its_activations(bert, smaller, runtime, origin):
    pytest.importorskip(runtime)
    pytest.importorskip("nncf" if runtime == "openvino" else "onnx")
    found = measure(smaller, bert, runtime=runtime, dtype="int8", **SHORT)
    assert found.protocol["int8_ranges"] == found.against.protocol["int8_ranges"] == origin
    assert f", int8 (ranges of activations from {origin}), " in str(found)


def test_images_are_the_ranges_of_a_model_that_reads_images():
    images = {"pixel_values": np.zeros((1, 3, 8, 8), dtype=np.float32)}
    (batch,), origin = random_calibration("openvino", "int8", images)
    assert (batch["pixel_values"].shape, origin) == ((1, 3, 8, 8), "random images")


def test_forward_sees_inference_on_unpadded_ids_within_both_vocabularies():
    first, second = Recorder("a", [], vocabulary=50), Recorder("b", [], vocabulary=5)
    measure(first, second, threads=1, **SHORT)
    assert first.inference and not first.autocast and not first.was_training and first.threads == 1
    assert first.inputs["input_ids"].equal(second.inputs["input_ids"])
    assert first.inputs["input_ids"].shape == first.inputs["attention_mask"].shape == (2, 7)
    assert first.inputs["input_ids"].max() < 5
    assert first.inputs["attention_mask"].all()


def test_the_seed_fixes_the_ids_and_leaves_the_random_state_alone():
    model, state = Recorder("a", []), torch.get_rng_state()
    sampled = []
    for seed in (1, 1, 2):
        measure(model, seed=seed, **SHORT)
        sampled.append(model.inputs["input_ids"])
    assert sampled[0].equal(sampled[1]) and not sampled[0].equal(sampled[2])
    assert torch.get_rng_state().equal(state)


def test_autocast_is_on_when_asked_for(bert):
    model = Recorder("a", [])
    measure(model, dtype=torch.bfloat16, **SHORT)
    assert model.autocast
    assert measure(bert, dtype=torch.bfloat16, **SHORT).protocol["dtype"] == "bfloat16 autocast of float32"


def test_threads_are_restored_even_after_an_error(bert):
    before = torch.get_num_threads()
    assert measure(bert, threads=before + 1, **SHORT).protocol["threads"] == before + 1
    assert torch.get_num_threads() == before
    broken = Recorder("a", None)
    with pytest.raises(AttributeError):
        measure(broken, threads=before + 1, **SHORT)
    assert torch.get_num_threads() == before


def test_each_module_gets_its_training_mode_back(bert):
    bert.train()
    bert.classifier.eval()
    modes = [module.training for module in bert.modules()]
    measure(bert, **SHORT)
    assert [module.training for module in bert.modules()] == modes


def test_speed_up_is_the_ratio_of_the_medians():
    dense = Measurement(12.0, (11.0, 13.0), 100, {})
    small = Measurement(3.0, (2.5, 3.5), 20, {}, against=dense)
    assert small.speed_up == 4.0
    assert small.to_dict()["speed_up"] == 4.0
    assert small.to_dict()["against"]["latency_ms"] == 12.0
    assert json.loads(json.dumps(small.to_dict())) == small.to_dict()


def test_quartiles_enclose_the_median(bert):
    result = measure(bert, **SHORT)
    assert result.quartiles_ms[0] <= result.latency_ms <= result.quartiles_ms[1]
    assert math.isfinite(result.latency_ms)


def test_grid_measures_each_shape(bert, smaller):
    results = grid(smaller, bert, shapes=((1, 3), (2, 5)), repeats=1, warmup=0)
    assert [(r.protocol["batch"], r.protocol["tokens"]) for r in results] == [(1, 3), (2, 5)]


def test_disk_bytes_counts_the_weights_alone(tmp_path):
    for name, size in (("model-1.safetensors", 10), ("model-2.safetensors", 5), ("config.json", 100)):
        (tmp_path / name).write_bytes(b"0" * size)
    assert disk_bytes(tmp_path) == 15
    with pytest.raises(UserError, match="safetensors"):
        disk_bytes(tmp_path / "absent")


def test_roberta_positions_begin_after_the_padding_index():
    model = RobertaForSequenceClassification(RobertaConfig(**SIZES, pad_token_id=1))
    measure(model, batch=1, tokens=30, repeats=1, warmup=0)
    with pytest.raises(UserError, match="at most 30 tokens"):
        measure(model, tokens=31)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": 33}, "at most 32 tokens"),
        ({"tokens": 0}, "tokens of at least 1"),
        ({"batch": 0}, "batch of at least 1"),
        ({"repeats": 0}, "repeats of at least 1"),
        ({"warmup": -1}, "warmup of at least 0"),
        ({"threads": 0}, "threads of at least 1"),
        ({"dtype": torch.float64}, "float64"),
        ({"dtype": "int4"}, "int4"),
        ({"dtype": "int8"}, "pytorch runs fp32, bf16, fp16, not 'int8'"),
        ({"runtime": "abacus"}, "'abacus'"),
        ({"runtime": "compiled", "dtype": torch.bfloat16}, "only PyTorch has autocast"),
    ],
)
def test_what_cannot_be_measured_is_refused(bert, wrong, message):
    with pytest.raises(UserError, match=message):
        measure(bert, **SHORT | wrong)


def test_two_devices_are_refused(bert):
    elsewhere = Recorder("b", [])
    elsewhere.device = torch.device("meta")
    with pytest.raises(UserError, match="cpu and meta"):
        measure(bert, elsewhere, **SHORT)


def test_a_model_that_is_not_on_the_cpu_has_no_other_runtime():
    elsewhere = Recorder("b", [])
    elsewhere.device = torch.device("meta")
    with pytest.raises(UserError, match="on the CPU for compiled"):
        measure(elsewhere, runtime="compiled", **SHORT)


def test_a_model_without_tokens_is_refused():
    picture = Recorder("a", [])
    picture.config = type("PictureConfig", (), {})()
    with pytest.raises(UserError, match="vocab_size"):
        measure(picture, **SHORT)


# Encoder-decoders


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_parts_of_an_encoder_decoder_are_timed_by_themselves(kind):
    model = tiny(kind, dtype=torch.float32)
    counts = dict.fromkeys(("encoder", "decoder"), 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    model.get_encoder().register_forward_hook(count("encoder"))
    model.get_decoder().register_forward_hook(count("decoder"))
    forwards = SHORT["repeats"] + SHORT["warmup"]
    found = {}
    for part in PARTS:
        counts.update(encoder=0, decoder=0)
        found[part] = measure(model, part=part, **SHORT).protocol["part"], dict(counts)
    assert found == {
        "whole": ("whole", {"encoder": forwards, "decoder": forwards}),
        "encoding": ("encoding", {"encoder": forwards, "decoder": 0}),
        # the source is encoded once, and each generation takes a step per token
        "decoding": ("decoding, 5 beams", {"encoder": 1, "decoder": forwards * SHORT["tokens"]}),
        "generation": ("generation, 5 beams", {"encoder": forwards, "decoder": forwards * SHORT["tokens"]}),
    }


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_an_encoder_decoder_is_timed_with_its_target_in_a_dtype_too(kind):
    model = tiny(kind, dtype=torch.float32)
    protocol = measure(model, dtype="fp32", **SHORT).protocol
    assert (protocol["dtype"], protocol["part"]) == ("fp32", "whole")


def test_an_encoder_decoder_that_classifies_is_refused_for_its_ends_of_texts():
    model = BartForSequenceClassification(tiny("bart").config)
    with pytest.raises(UserError, match="any ids, got BartForSequenceClassification, which needs the end of a text"):
        measure(model, **SHORT)


def test_the_summary_names_the_part():
    model = tiny("marian", dtype=torch.float32)
    assert "\ndecoding, 5 beams, batch 2 x 7 tokens" in str(measure(model, part="decoding", **SHORT))
    assert "\nbatch 2 x 7 tokens" in str(measure(model, **SHORT))


@pytest.mark.parametrize(
    ("part", "runtime", "message"),
    [
        ("reading", "pytorch", "expected part whole, encoding, decoding, generation, got 'reading'"),
        ("generation", "pytorch", "expected a model that generates text for part 'generation', got BertForSeq"),
        ("decoding", "pytorch", "expected an encoder-decoder for part 'decoding', got BertForSequenceClassification"),
        ("encoding", "onnxruntime", "encoding is measured in PyTorch"),
    ],
)
def test_missing_parts_are_refused(bert, part, runtime, message):
    with pytest.raises(UserError, match=message):
        measure(bert, part=part, runtime=runtime, **SHORT)
