"""Law 13 on a GPU: every runtime gives the outputs of the model, padded or not, and each input its own.

The exact outputs are those of the model on the CPU in float64.
"""

import pytest
import torch
from exported_models import dense, edges, irregular
from law_assertions import assert_same, everything, in_float64
from tiny_models import CLASSIFIERS, inputs

from secateur.deploy import gpu
from secateur.measure.benchmark import benchmark


def batches(model):
    """Padded, full, and a single row."""
    return [inputs(model), inputs(model, padded=False, seed=1), {name: one[:1] for name, one in inputs(model).items()}]


def assert_runtime_gives_outputs(model, runtime, dtype, batches):
    """Of one placed model, for all of the batches in turn."""
    placed, exact = gpu.placed(model, dtype), in_float64(model)
    calls = [gpu.forward(placed, runtime, {k: v.numpy() for k, v in batch.items()}) for batch in batches]
    for batch, call in zip(batches, calls, strict=True):
        on_gpu = {name: value.to(placed.device) for name, value in batch.items()}
        theirs = everything(placed, on_gpu)
        wanted = {name: value.to(placed.device) for name, value in everything(exact, batch).items()}
        for _ in range(2):
            given = {name: value for name, value in call().items() if isinstance(value, torch.Tensor)}
            assert given and given.keys() <= theirs.keys()
            assert_same(theirs | given, theirs, wanted)  # the hidden states tell the rounding


@pytest.mark.parametrize("dtype", gpu.DTYPES)
@pytest.mark.parametrize("make", [dense, irregular, edges], ids=lambda make: make.__name__)
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_eager_code_and_a_cuda_graph_give_the_outputs_of_the_model(which, make, dtype, cuda):
    model = make(which)
    for runtime in ("pytorch", "cudagraph"):
        assert_runtime_gives_outputs(model, runtime, dtype, batches(model))


def test_a_benchmark_times_every_model_and_runtime(cuda):
    which = CLASSIFIERS[0].values[0]
    models, runtimes = {"dense": dense(which), "cut": irregular(which)}, ("pytorch", "cudagraph")
    short = {"shapes": [(2, 8)], "repeats": 2, "warmup": 1, "peak_memory": False}
    results = benchmark(models, dense="dense", device="cuda", runtimes=runtimes, dtypes=["bf16"], **short)
    timed = [(one.runtime, one.dtype, one.model) for one in results]
    assert set(timed) == {("pytorch", "fp32", "dense")} | {(run, "bf16", name) for run in runtimes for name in models}
    assert all(one.latency_ms > 0 and one.over_floor > 1 for one in results)
