"""The laws and runs on a GPU, over its real kernels. Where there is no GPU every test here is skipped.

`SECATEUR_GPU_TESTS_ON=cpu pytest tests/gpu` does on the CPU what needs no GPU, which is all but compiled code and CUDA
graphs, to see that a test that was changed is right.
"""

import os
from pathlib import Path

import pytest
import torch

from secateur.deploy import gpu

DEVICE = torch.device(os.environ.get("SECATEUR_GPU_TESTS_ON", "cuda"))
# Third-party warnings that we cannot avoid: PyTorch's of its own thread for gradients, which may be the first to
# multiply on the GPU, and its compiler's of the TorchScript that it imports.
UNAVOIDABLE = (
    "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning",
    r"ignore:`torch\.jit\.\w+` is deprecated:DeprecationWarning",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in UNAVOIDABLE:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session", autouse=True)
def device():
    """The device of the models; without an NVIDIA GPU the test is skipped."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return DEVICE


@pytest.fixture
def cuda(device):
    """For what exists on a GPU alone, also if the other tests are done on the CPU."""
    if device.type != "cuda":
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(params=gpu.DTYPES)
def dtype(request):
    """Each dtype that models run in on a GPU."""
    return gpu.DTYPES[request.param]
