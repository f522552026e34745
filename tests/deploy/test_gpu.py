"""What is refused without a GPU, and what a GPU does not run. tests/gpu runs models on one."""

import pytest
import torch

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
