"""Runtimes: the same model behind the same call, wherever it runs, and what does not exist is refused."""

import numpy as np
import pytest
import torch
from tiny_models import inputs, outputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.deploy.export import export
from secateur.deploy.runner import check_runtime, difference, runner
from secateur.deploy.runtime import DTYPES, Runtime
from secateur.deploy.runtimes import RUNTIMES, register
from secateur.structure.fingerprints import weights_fingerprint
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def small():
    """A cut model of one layer; `compiled` takes seconds for each."""
    model = tiny("bert", dtype=torch.float32, num_hidden_layers=1)
    space = Space(model, "ffn", "vo")
    return cut(model, Plan.of(space, random_masks(space)))


def close(run, model, batch, share=1e-5):
    found, scale = difference(run, model, [batch])
    return found <= share * scale


@pytest.mark.parametrize("runtime", RUNTIMES.all())
def test_a_model_has_the_same_outputs_in_every_runtime(small, runtime):
    before = weights_fingerprint(small)
    run = runner(small, runtime, threads=1)
    batch = inputs(small)
    (said,) = run(batch)
    np.testing.assert_allclose(said, outputs(small, batch)[0]["logits"].numpy(), rtol=1e-4, atol=1e-4)
    assert said.dtype == np.float32
    assert (run.runtime, run.dtype, run.threads) == (runtime, "fp32", 1)
    assert run.version.split()[0] in (runtime, "pytorch")
    assert run.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert weights_fingerprint(small) == before
    assert close(run, small, batch)  # the same shape again: what is compiled is kept


@pytest.mark.parametrize("runtime", ["pytorch", "openvino"])
def test_bf16_is_close_to_fp32_but_differs(small, runtime):
    try:
        run = runner(small, runtime, "bf16")
    except UserError as error:
        pytest.skip(str(error))  # a processor without bf16
    found, scale = difference(run, small, [inputs(small)])
    assert 1e-5 * scale < found < 0.05 * scale


def test_vectors_in_bf16_are_close_to_those_in_fp32():
    model = tiny("bert", "Sentence", dtype=torch.float32, num_hidden_layers=1)
    found, scale = difference(runner(model, "pytorch", "bf16"), model, [inputs(model)])
    assert 1e-5 * scale < found < 0.05 * scale


def test_openvino_runs_fp32_in_fp32(small):
    """Its own choice on a processor with bf16 would be bf16."""
    assert close(runner(small, "openvino"), small, inputs(small))


def test_the_size_in_bytes_is_that_of_the_weights(small, tmp_path):
    stored = sum(tensor.nbytes for tensor in (*small.parameters(), *small.buffers()))
    assert runner(small).bytes == stored
    assert runner(small, dtype="bf16").bytes < 0.6 * stored
    run = runner(small, "onnxruntime", workspace=tmp_path / "new")
    assert run.bytes == (tmp_path / "new" / "fp32.onnx").stat().st_size


def test_calibration_makes_int8_static(small, tmp_path):
    ranges = runner(small, "onnxruntime", "int8", workspace=tmp_path / "ranges")
    static = runner(small, "onnxruntime", "int8", workspace=tmp_path / "static", calibration=[inputs(small)])
    assert close(ranges, small, inputs(small), 0.2) and close(static, small, inputs(small), 0.2)
    assert ranges.bytes != static.bytes


def test_missing_inputs_are_filled_as_transformers_does(small):
    run = runner(small, "onnxruntime")
    ids = inputs(small, padded=False)["input_ids"]
    (said,) = run({"input_ids": ids})
    np.testing.assert_allclose(said, outputs(small, {"input_ids": ids})[0]["logits"].numpy(), rtol=1e-4, atol=1e-5)
    for wrong, message in (
        ({"input_ids": ids, "labels": ids}, "got labels"),
        ({"attention_mask": ids}, "no input_ids"),
    ):
        with pytest.raises(UserError, match=message):
            run(wrong)


def test_threads_are_set_at_each_call(small):
    before = torch.get_num_threads()
    try:
        one, two = runner(small, threads=1), runner(small, threads=2)
        two(inputs(small))
        assert torch.get_num_threads() == 2
        one(inputs(small))
        assert torch.get_num_threads() == 1
        with pytest.raises(UserError, match="at least 1, got 0"):
            runner(small, threads=0)
    finally:
        torch.set_num_threads(before)


def test_a_runner_can_be_made_in_inference_mode(small):
    with torch.inference_mode():
        run = runner(small, "onnxruntime")
    assert close(run, small, inputs(small))


def test_a_difference_that_is_not_a_number_stays_nan(small):
    run = runner(small)
    broken = tiny("bert", dtype=torch.float32, num_hidden_layers=1)
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))
    assert np.isnan(difference(run, broken, [inputs(small), inputs(small, seed=1)])[0])


# What does not exist


@pytest.mark.parametrize("runtime", RUNTIMES.all())
@pytest.mark.parametrize("dtype", [*DTYPES, "int4"])
def test_a_pair_of_runtime_and_dtype_exists_or_is_refused_with_the_ones_that_exist(runtime, dtype, monkeypatch):
    if dtype in RUNTIMES.get(runtime).stored:
        if (runtime, dtype) != ("openvino", "bf16"):  # the processor's choice
            check_runtime(runtime, dtype)
        return
    with pytest.raises(UserError, match=f"{runtime} runs fp32, .*, not '{dtype}'"):
        check_runtime(runtime, dtype)


def test_bf16_is_refused_on_hardware_without_it(monkeypatch):
    import openvino

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(UserError, match="has no bf16"):
        check_runtime("openvino", "bf16")


def test_an_unknown_runtime_is_refused(small):
    with pytest.raises(
        UserError, match="runtime 'tvm' is not known: known are compiled, onnxruntime, openvino, pytorch"
    ):
        runner(small, "tvm")


def test_a_file_runs_in_its_own_runtime_and_dtype(small, tmp_path):
    path = export(small, tmp_path / "model.onnx").path
    assert close(runner(path, "onnxruntime"), small, inputs(small))
    with pytest.raises(UserError, match=r"openvino opens \.xml files, not 'model\.onnx'"):
        runner(path, "openvino")
    with pytest.raises(UserError, match="holds fp32, from which int8 cannot be run"):
        runner(path, "onnxruntime", "int8")


def test_a_registered_runtime_runs_models_and_files(small, tmp_path, monkeypatch):
    monkeypatch.setattr(RUNTIMES, "_items", dict(RUNTIMES.all()))

    @register("zeros")
    class Zeros(Runtime):
        suffix = ".pt2"
        stored = {"fp32": "fp32"}

        def version(self, dtype):
            return "zeros 1.0"

        def open(self, path, dtype, threads, inputs):
            return lambda arrays: [np.zeros((len(arrays["input_ids"]), 3), np.float32)]

    run = runner(small, "zeros", workspace=tmp_path)
    assert (run.runtime, run.version, run.bytes) == ("zeros", "zeros 1.0", (tmp_path / "fp32.pt2").stat().st_size)
    assert run(inputs(small))[0].sum() == 0
    with pytest.raises(UserError, match="zeros runs fp32, not 'int8'"):
        runner(small, "zeros", "int8")
