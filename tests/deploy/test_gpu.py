"""Models on a GPU: what is refused without one, and, where there is one, that every way of running gives one answer."""

import pytest
import torch
from small_world import WORDS, config
from transformers import BertForSequenceClassification

from secateur.deploy import gpu
from secateur.measure.random_inputs import random_inputs
from secateur.system.errors import UserError


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")
def test_without_a_gpu_it_is_refused():
    with pytest.raises(UserError, match="expected an NVIDIA GPU"):
        gpu.check("pytorch", "fp32")


@pytest.mark.parametrize(("runtime", "dtype"), [("onnxruntime", "fp32"), ("pytorch", "int8")])
def test_what_a_gpu_does_not_run_here_is_refused(monkeypatch, runtime, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for known in gpu.RUNTIMES:
        gpu.check(known, "bf16")
    with pytest.raises(UserError, match=f"got {runtime} in {dtype}"):
        gpu.check(runtime, dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("runtime", gpu.RUNTIMES)
def test_every_runtime_gives_the_outputs_of_the_model(runtime):
    model = BertForSequenceClassification(config()).eval()
    inputs = random_inputs(len(WORDS), 2, 8)
    call = gpu.forward(gpu.placed(model, "fp32"), runtime, inputs)
    call()
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    torch.testing.assert_close(call().logits.cpu(), expected, rtol=1e-3, atol=1e-4)
