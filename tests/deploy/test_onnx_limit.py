"""What is too large for a file of ONNX is refused before any work; the large models here have shapes and no memory."""

from functools import partial

import pytest
import torch
from small_world import config, tokenizer, write_model
from tiny_models import tiny
from transformers import (
    BertForMaskedLM,
    MBartConfig,
    MBartForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from typer.testing import CliRunner

from secateur.cli import app, export_work
from secateur.deploy import formats, onnx_format, onnx_limit
from secateur.deploy.export import export
from secateur.deploy.hub_layout import export_folder
from secateur.deploy.onnx_limit import weight_bytes
from secateur.deploy.runner import check_model
from secateur.deploy.seq2seq.folder import export_seq2seq
from secateur.deploy.silence import silence
from secateur.measure.bench import measure
from secateur.measure.benchmark import benchmark
from secateur.system.errors import UserError
from secateur.system.model_state import held_bytes

onnx, _ = map(pytest.importorskip, ("onnx", "onnxruntime"))

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def classifier(**sizes):
    with torch.device("meta"):
        return XLMRobertaForSequenceClassification(XLMRobertaConfig(max_position_embeddings=514, **LARGE, **sizes))


@pytest.fixture(scope="module")
def large():
    """A classifier of the size of multilingual-e5-large: 2.24 GB in fp32, 1.12 GB in fp16."""
    return classifier(vocab_size=250_002)


@pytest.fixture
def untouched(monkeypatch):
    """No work begins."""

    def work(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(formats, "graph_of", work)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_file_of_more_than_two_gigabytes_is_refused_before_any_work(dtype, large, tmp_path, untouched):
    with pytest.raises(UserError, match=r"2\.24 GB in fp32.* less than 2\.15 GB: take fp16, or OpenVINO or PyTorch"):
        export(large, tmp_path / "large.onnx", dtype=dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "dtype"), [("a.onnx", "fp16"), ("a.xml", "fp32"), ("a.pt2", "fp32")])
def test_half_of_the_bytes_and_other_formats_are_not_limited(name, dtype, large, tmp_path, untouched):
    with pytest.raises(AssertionError, match="work has begun"):
        export(large, tmp_path / name, dtype=dtype)


def test_fp16_is_named_only_where_it_helps(tmp_path):
    with pytest.raises(UserError, match=r"less than 2\.15 GB: take OpenVINO or PyTorch"):
        export(classifier(vocab_size=1_000_000), tmp_path / "large.onnx")


def test_a_folder_for_servers_is_refused_before_any_work(large, tmp_path, untouched):
    with pytest.raises(UserError, match=r"2\.24 GB in fp32"):
        export_folder(large, tmp_path / "served", tokenizer=tokenizer())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_measurement_in_onnx_runtime_is_refused_before_any_work(dtype, monkeypatch, untouched):
    small, large = (tiny("bert", dtype=torch.float32, vocab_size=rows) for rows in (50, 5_000))
    monkeypatch.setattr(onnx_limit, "LIMIT", 500_000)
    with pytest.raises(UserError, match=r"GB in fp32.*take fp16"):
        benchmark({"small": small, "large": large}, runtimes=["onnxruntime"], dtypes=[dtype], shapes=[(1, 8)])
    with pytest.raises(UserError, match=r"GB in fp32.*take fp16"):
        measure(small, large, runtime="onnxruntime", dtype=dtype, tokens=8)


@pytest.mark.parametrize("runtime", ["pytorch", "compiled"])
def test_a_runtime_that_runs_the_model_itself_has_no_limit(runtime, large):
    assert check_model(large, runtime, "fp32") is None


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_the_decoder_of_an_encoder_decoder_is_refused_before_any_work(dtype, tmp_path):
    sizes = {"d_model": 1024, "encoder_layers": 1, "decoder_layers": 24, "decoder_ffn_dim": 4096}
    with torch.device("meta"):
        model = MBartForConditionalGeneration(MBartConfig(vocab_size=250_027, **sizes))
    with pytest.raises(UserError, match=r"GB in fp32.*: take fp16, or OpenVINO$"):
        export_seq2seq(model, tmp_path / "served", dtypes=["fp16", dtype])
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_before_rows_are_read_for_ranges(tmp_path, monkeypatch, untouched):
    write_model(tmp_path / "model")
    monkeypatch.setattr(onnx_limit, "LIMIT", 1_000)
    monkeypatch.setattr(export_work, "_calibration", None)
    words = ("export", tmp_path / "model", "--output", tmp_path / "large.onnx", "--dtype", "int8")
    result = CliRunner().invoke(app.app, list(map(str, words)))
    assert result.exit_code == 2 and "in fp32, of which int8 is made" in result.output
    assert not (tmp_path / "large.onnx").exists()


def test_shared_weights_count_once_unless_they_are_looked_up_and_multiplied():
    """As the tracer stores them; what is no float keeps its size in every dtype."""
    model = BertForMaskedLM(config())
    table = model.get_input_embeddings().weight.nbytes
    assert weight_bytes(model.modules(), "fp32", fold=False) == held_bytes(model)
    assert weight_bytes(model.modules(), "fp32") == held_bytes(model) + table
    numbers = sum(buffer.nbytes for buffer in model.buffers() if not buffer.is_floating_point())
    assert weight_bytes(model.modules(), "fp16", fold=False) == (held_bytes(model) - numbers) // 2 + numbers


def test_weights_are_counted_as_a_file_has_them(tmp_path):
    """Within the nodes of the graph."""
    model = tiny("bert", dtype=torch.float32, vocab_size=20_000)
    size, expected = export(model, tmp_path / "own.onnx").bytes, weight_bytes(model.modules(), "fp32")
    assert expected <= size < expected + 200_000


def test_a_graph_that_was_written_with_its_weights_elsewhere_is_refused(tmp_path):
    """PyTorch does so where the whole message would reach the limit, which the weights alone do not."""
    model = tiny("bert", dtype=torch.float32)
    export(model, tmp_path / "whole.onnx")
    traced = tmp_path / "traced" / "traced.onnx"
    traced.parent.mkdir()
    onnx.save(onnx.load(tmp_path / "whole.onnx"), traced, save_as_external_data=True, size_threshold=0)
    facts = formats.read_facts(tmp_path / "whole.onnx")
    with pytest.raises(UserError, match="GB in fp32, and an ONNX file holds less than"):
        onnx_format.write(traced, tmp_path / "own.onnx", facts, [])


def test_an_input_is_added_to_a_graph_whose_weights_are_elsewhere(tmp_path, monkeypatch):
    """As those of an IR may be, which has no limit: they stay where they are."""
    graph = formats.graph_of(tiny("distilbert", dtype=torch.float32))
    names = ("input_ids", "attention_mask", "token_type_ids")

    def elsewhere(whole, *options, **others):
        whole(*options, **others)
        onnx.save(onnx.load(options[2]), options[2], save_as_external_data=True, size_threshold=0)

    monkeypatch.setattr(torch.onnx, "export", partial(elsewhere, torch.onnx.export))
    with silence():
        onnx_format.trace(graph, tmp_path / "traced.onnx", graph.signature(names), 17)
    found = onnx.load(tmp_path / "traced.onnx", load_external_data=False).graph
    assert tuple(port.name for port in found.input) == names
    assert all(onnx.external_data_helper.uses_external_data(tensor) for tensor in found.initializer)
