"""Benchmarks: the order of the rows, the comparisons and the refusals. No test depends on how long anything takes."""

import json
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from small_world import WORDS, config
from tiny_models import tiny
from transformers import BertForSequenceClassification

from secateur.cli.benchmark_output import show_results
from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.runtime import Runner
from secateur.measure import prepared_models
from secateur.measure.benchmark import benchmark
from secateur.measure.peak_memory import Peak
from secateur.measure.roofline import Rates
from secateur.system.errors import UserError

module = import_module("secateur.measure.benchmark")
SHORT = {"shapes": ((1, 4),), "repeats": 3, "warmup": 1, "threads": 1}
RATES = Rates(flops=1e9, bandwidth=1e9, product="fp32 torch.mm, 8 x 8")


@pytest.fixture
def models():
    return {name: BertForSequenceClassification(config()) for name in ("small", "dense", "other")}


@pytest.fixture
def built(monkeypatch):
    """Runners that only record which model ran on which inputs, on a machine of known rates."""
    log = SimpleNamespace(calls=[], inputs=[], calibration={}, threads=set(), jobs=[], fails=None)

    def runner(model, runtime, dtype, *, threads, workspace, calibration):
        name = (model, runtime, dtype)
        log.calibration[runtime, dtype] = calibration
        log.threads.add(threads)

        def run(inputs):
            if (runtime, dtype) == log.fails:
                raise RuntimeError("out of bounds")
            log.calls.append(name)
            log.inputs.append(inputs)

        return Runner(runtime, dtype, f"{runtime} 1.0", threads, ("input_ids", "attention_mask"), 1000, run)

    def peaks(job):
        log.jobs.append(job)
        return {shape: Peak(500, 100) for shape in job.shapes}

    monkeypatch.setattr(prepared_models, "runner", runner)
    monkeypatch.setattr(module.roofline, "rates", lambda dtype, threads, device: RATES)
    monkeypatch.setattr(module.memory, "peaks", peaks)
    monkeypatch.setattr(module.memory, "measurable", lambda: True)
    return log


@pytest.fixture
def medians(monkeypatch):
    """Make every row's times the given ones, in milliseconds."""

    def given(*times):
        monkeypatch.setattr(module, "times_in_turn", lambda calls, *_, **__: [[time] for time in times])

    return given


def rows(results):
    return [(one.model, one.runtime, one.dtype) for one in results]


def test_all_rows_of_a_shape_take_turns(models, built):
    results = benchmark(models, dense="dense", runtimes=("pytorch", "compiled"), dtypes=("fp32", "bf16"), **SHORT)
    names = {id(model): name for name, model in models.items()}
    calls = [(names[id(model)], runtime, dtype) for model, runtime, dtype in built.calls]
    assert len(results) == len(set(rows(results))) == 3 * 2 * 2
    timed = [row for row in rows(results) for _ in range(1 + module.SETTLE)]
    assert calls == rows(results) * SHORT["warmup"] + timed * SHORT["repeats"]


def test_every_row_sees_the_same_ids_below_the_vocabulary(models, built):
    benchmark(models, **SHORT, peak_memory=False)
    first = built.inputs[0]["input_ids"]
    assert first.shape == (1, 4) and first.max() < len(WORDS)
    assert all((inputs["input_ids"] == first).all() and inputs["attention_mask"].all() for inputs in built.inputs)
    assert built.threads == {1}


def test_shapes_are_measured_one_after_the_other_and_once(models, built):
    results = benchmark(models, **SHORT | {"shapes": ((2, 8), (1, 4), (2, 8))}, peak_memory=False)
    assert [(one.batch, one.tokens) for one in results] == [(2, 8)] * 3 + [(1, 4)] * 3


def test_speed_ups_are_against_the_dense_model_in_the_same_runtime_and_in_pytorch_fp32(models, built, medians):
    del models["other"]
    medians(2.0, 8.0, 1.0, 6.0)
    small, dense, fast, faster = benchmark(models, dense="dense", runtimes=("pytorch", "compiled"), **SHORT)
    assert (small.speed_up, small.speed_up_baseline) == (4.0, 4.0)
    assert (dense.speed_up, dense.speed_up_baseline) == (1.0, 1.0)
    assert (fast.speed_up, fast.speed_up_baseline) == (6.0, 8.0)
    assert faster.speed_up_baseline == pytest.approx(8 / 6)


def test_the_baseline_is_always_measured(models, built):
    results = benchmark(models, dense="dense", runtimes=("compiled",), dtypes=("bf16",), **SHORT)
    assert rows(results)[0] == ("dense", "pytorch", "fp32")
    assert len(results) == 4 and all(one.speed_up_baseline is not None for one in results)
    assert results[0].speed_up == 1.0


def test_without_a_dense_model_there_are_no_ratios(models, built):
    results = benchmark(models, **SHORT)
    assert {(one.speed_up, one.speed_up_baseline) for one in results} == {(None, None)}


def test_a_result_has_its_whole_protocol(models, built):
    (small, *_) = benchmark(models, dense="dense", runtimes=("compiled",), **SHORT, seed=3)[1:]
    assert {name: small.protocol[name] for name in ("batch", "tokens", "repeats", "warmup", "threads", "seed")} == {
        "batch": 1, "tokens": 4, "repeats": 3, "warmup": 1, "threads": 1, "seed": 3,
    }  # fmt: skip
    assert (small.protocol["runtime"], small.protocol["dtype"], small.protocol["device"]) == (
        "compiled 1.0", "fp32", "cpu",
    )  # fmt: skip
    assert (small.protocol["order"], small.protocol["settle"]) == ("interleaved", module.SETTLE)
    assert small.protocol["attention"] == models["small"].config._attn_implementation
    assert small.protocol["memory"] == module.memory.COUNTED["cpu"]
    assert "logical cores" in small.protocol["machine"]
    assert (small.parameters, small.bytes, small.peak) == (models["small"].num_parameters(), 1000, Peak(500, 100))


def test_the_roofline_is_the_median_over_the_floor(models, built, medians):
    medians(5.0, 5.0, 5.0)
    one = benchmark(models, **SHORT)[0]
    assert one.over_floor == pytest.approx(5.0 / one.floor.floor_ms)
    assert one.floor.floor_ms == pytest.approx(1000 * max(one.floor.flops, one.floor.bytes) / 1e9)
    assert replace(one, floor=None).over_floor is None


def test_a_result_is_json(models, built):
    for one in benchmark(models, dense="dense", **SHORT):
        values = one.to_dict()
        assert json.loads(json.dumps(values)) == values
        assert values["over_floor"] == one.over_floor and values["peak"]["model"] == 100


def test_memory_is_measured_once_for_each_row_on_a_saved_model(models, built):
    benchmark(models, **SHORT | {"shapes": ((1, 4), (2, 8))}, dtypes=("fp32", "bf16"))
    assert [job.shapes for job in built.jobs] == [((1, 4), (2, 8))] * 6
    assert len({job.model for job in built.jobs}) == 3


def test_memory_may_be_left_out_or_not_measurable(models, built, monkeypatch):
    one = benchmark(models, **SHORT, peak_memory=False)[0]
    assert one.peak is None and "memory" not in one.protocol
    monkeypatch.setattr(module.memory, "measurable", lambda: False)
    one = benchmark(models, **SHORT)[0]
    assert one.peak is None and "not measured" in one.protocol["memory"]
    assert built.jobs == []


def test_the_note_about_memory_is_of_the_device_and_only_where_some_was_measured(models, built, monkeypatch, capsys):
    one = benchmark(models, **SHORT)[0]
    on_gpu = replace(one, protocol=one.protocol | {"device": "cuda", "memory": "reserved"})
    monkeypatch.setattr(module.memory, "measurable", lambda: False)
    notes = []
    for result in (one, on_gpu, benchmark(models, **SHORT)[0]):
        show_results([result], "dense")
        notes.append(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("- memory: ")))
    assert notes[0].endswith("; the model's is above that of the process before it was loaded")
    assert notes[1].startswith(
        "- memory: reserved; the model's is what its weights and the tensors of its forward took"
    )
    assert notes[2] == "- memory: not measured: only Linux reports it"


def test_tied_weights_count_once_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(prepared_models.gpu, "placed", lambda model, dtype: model)
    model = tiny("t5", "ForConditionalGeneration")
    settings = SimpleNamespace(device="cuda")
    ready = prepared_models.prepared(prepared_models.Configuration("t5", "pytorch", "fp32"), model, settings, None)
    assert ready.bytes == sum(parameter.nbytes for parameter in model.parameters())


@pytest.fixture
def recorded():
    """What the facts of `exported` record."""
    return {"vocabulary": 6, "positions": 12}


@pytest.fixture
def exported(monkeypatch, tmp_path, recorded):
    """The path of an int8 file for ONNX Runtime, of which only the facts are read."""
    facts = ExportFacts("onnx", "int8", 17, ("input_ids",), ("logits",), "0" * 16, "BertModel", 0, {})
    monkeypatch.setattr(prepared_models, "read_facts", lambda path: replace(facts, **recorded))
    return tmp_path / "small.onnx"


def test_an_exported_file_runs_once_in_its_own_runtime_and_dtype(models, built, medians, exported):
    del models["other"]
    medians(2.0, 8.0, 1.0)
    *_, last = benchmark({**models, "file": str(exported)}, dense="dense", **SHORT)
    assert (last.model, last.runtime, last.dtype) == ("file", "onnxruntime", "int8")
    assert (last.speed_up, last.speed_up_baseline) == (None, 8.0)
    assert (last.parameters, last.floor, last.over_floor) == (None, None, None)
    assert last.protocol["int8_ranges"] == last.protocol["attention"] == "as exported"
    assert built.calibration["onnxruntime", "int8"] is None
    assert built.jobs[-1].model == str(exported)


def test_every_row_sees_ids_below_the_vocabulary_of_a_file_too(models, built, exported):
    benchmark({**models, "file": exported}, **SHORT | {"shapes": ((8, 12),)})
    assert max(inputs["input_ids"].max() for inputs in built.inputs) == 5
    assert {job.reads for job in built.jobs} == {6}


def test_a_file_with_too_few_positions_or_of_images_is_refused_before_anything_is_built(
    models, exported, recorded, monkeypatch
):
    monkeypatch.setattr(module, "prepared", None)
    with pytest.raises(UserError, match="at most 12 tokens, the positions that file has, got 13"):
        benchmark({**models, "file": exported}, **SHORT | {"shapes": ((1, 4), (1, 13))})
    recorded.update(vocabulary=None, positions=None, image=(3, 8, 8))
    with pytest.raises(UserError, match="expected models that all read texts"):
        benchmark({**models, "file": exported}, **SHORT)


def test_a_file_that_records_no_vocabulary_is_refused_where_it_cannot_run(models, built, exported, recorded):
    recorded.clear()
    benchmark({**models, "file": exported}, **SHORT)
    built.fails = ("onnxruntime", "int8")
    with pytest.raises(UserError, match=r"small.onnx cannot run 1 x 4 tokens of ids below \d+ \(out of bounds\): "):
        benchmark({**models, "file": exported}, **SHORT)


def test_the_protocol_has_the_origin_of_the_ranges_of_int8(models, built, monkeypatch):
    monkeypatch.setattr(prepared_models, "check_runtime", lambda runtime, dtype: None)
    asked = {"runtimes": ("onnxruntime", "openvino"), "dtypes": ("fp32", "int8"), "peak_memory": False, **SHORT}
    results = benchmark({"small": models["small"]}, **asked)
    assert [one.protocol["int8_ranges"] for one in results] == ["none", "each batch", "none", "random ids"]
    assert built.calibration["openvino", "fp32"] is None
    assert built.calibration["openvino", "int8"][0]["input_ids"].shape == (1, 4)
    examples = [{"input_ids": torch.zeros(1, 4, dtype=torch.long)}]
    results = benchmark({"small": models["small"]}, **asked, calibration=examples)
    assert [one.protocol["int8_ranges"] for one in results] == ["none", "given examples", "none", "given examples"]
    assert built.calibration["onnxruntime", "int8"] is examples


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"runtimes": ("fast",)}, "'fast'"),
        ({"runtimes": ("cudagraph",)}, "'cudagraph'"),
        ({"dtypes": ("int8",)}, "not 'int8'"),
        ({"dtypes": ("fp32", "fp8")}, "not 'fp8'"),
        ({"device": "tpu"}, "'tpu'"),
        ({"shapes": ((1, 33),)}, "at most 32 tokens"),
        ({"shapes": ((0, 4),)}, "batch of at least 1"),
        ({"shapes": ()}, "shapes of at least 1"),
        ({"runtimes": ()}, "runtimes of at least 1"),
        ({"threads": 0}, "threads of at least 1"),
        ({"repeats": 0}, "repeats of at least 1"),
        ({"dense": "absent"}, "dense model first"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_built(models, monkeypatch, wrong, message):
    monkeypatch.setattr(module, "prepared", None)
    with pytest.raises(UserError, match=message):
        benchmark(models, **SHORT | wrong)


def test_a_refusal_of_a_runtime_comes_before_any_timing(models, built, monkeypatch):
    def refuse(*_, **__):
        raise UserError("not here")

    monkeypatch.setattr(prepared_models, "runner", refuse)
    monkeypatch.setattr(module, "times_in_turn", None)
    with pytest.raises(UserError, match="not here"):
        benchmark(models, **SHORT)


def test_what_is_neither_a_model_nor_a_path_is_refused(models):
    with pytest.raises(UserError, match="other is a dict: give a model of transformers, or the path of an exported"):
        benchmark({**models, "other": {}}, **SHORT)


def test_files_alone_or_first_are_refused(models, exported):
    with pytest.raises(UserError, match="a model folder besides the exported files"):
        benchmark({"file": exported}, **SHORT)
    with pytest.raises(UserError, match="'file', an exported file"):
        benchmark({**models, "file": exported}, dense="file", **SHORT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is for machines without a GPU")
def test_a_missing_gpu_is_refused(models):
    with pytest.raises(UserError, match="expected an NVIDIA GPU"):
        benchmark(models, **SHORT, device="cuda")


def test_on_a_gpu_files_and_other_runtimes_are_refused(models, exported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="got onnxruntime in fp32"):
        benchmark(models, **SHORT, device="cuda", runtimes=("onnxruntime",))
    with pytest.raises(UserError, match="got cudagraph in int8"):
        benchmark(models, **SHORT, device="cuda", runtimes=("cudagraph",), dtypes=("int8",))
    with pytest.raises(UserError, match="exported file file"):
        benchmark({**models, "file": exported}, **SHORT, device="cuda", runtimes=("cudagraph",))


def test_repeats_may_depend_on_the_shape(models, built):
    results = benchmark(models, **SHORT | {"shapes": ((1, 4), (2, 4)), "repeats": lambda shape: 4 // shape[0]})
    assert {(one.batch, one.protocol["repeats"]) for one in results} == {(1, 4), (2, 2)}


def test_progress_is_logged(models, built, caplog):
    with caplog.at_level("INFO", logger="secateur"):
        benchmark(models, **SHORT)
    assert caplog.messages == [
        "measuring the peak rates of the machine", "measuring 1 x 4, 3 rows in turn", "measuring memory"
    ]  # fmt: skip
    assert {record.name for record in caplog.records} == {"secateur.measure.benchmark"}
