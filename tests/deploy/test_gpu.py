"""What is refused without a GPU, and what a GPU does not run. tests/gpu runs models on one."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import inputs, outputs, tiny

from secateur.deploy import gpu
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


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_an_encoder_decoder_gets_its_source_as_the_target(kind, monkeypatch):
    """On the CPU, in place of a GPU to which inputs are copied."""
    model = tiny(kind, dtype=torch.float32)
    source = {name: inputs(model)[name] for name in ("input_ids", "attention_mask")}
    own = outputs(model, {**source, "decoder_input_ids": source["input_ids"]})[0]["logits"]
    with monkeypatch.context() as without_gpu:
        copied = torch.from_numpy
        without_gpu.setattr(torch, "from_numpy", lambda array: SimpleNamespace(to=lambda device: copied(array)))
        call = gpu.forward(model, "pytorch", {name: ids.numpy() for name, ids in source.items()})
    torch.testing.assert_close(call().logits, own)
