"""The roofline: a lower bound of the time of one forward of a model on a machine.

    floor = max(FLOPs / rate, bytes / bandwidth)        Williams, Waterman and Patterson, CACM 52(4), 2009

The rate is that of a large matrix product in the same dtype and with the same number of threads, the bandwidth that of
a large copy; both are measured here. A latency is then reported as a multiple of its floor. It exceeds the floor
because kernels do not reach the rate of a large product, because of operations other than matrix products, and because
of activations that leave the caches within a layer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from secateur.deploy.graph import with_target
from secateur.measure.timing import thread_count, time_ms
from secateur.system import compat

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
ACTIVATION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 4}
"""An int8 model multiplies in int8; between its layers activations are fp32."""

SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the square product: large enough for the full rate, a few seconds in the slowest dtype."""
COPY_BYTES = 128 * 2**20
"""Size of the copy: four times a last-level cache of 32 MiB."""


@dataclass(frozen=True)
class Work:
    """The operations and the memory traffic of one forward.

    Attributes:
        flops: floating point operations of its matrix products, padding included; a multiply-add counts as two.
        weights: number of weights, each read once; of an embedding only the rows that are looked up.
        activations: size of the hidden states before and after each layer, each written once and read once.
    """

    flops: int
    weights: int
    activations: int

    def bytes(self, dtype: str) -> int:
        """The least memory traffic in bytes: weights once, hidden states between layers twice."""
        return WEIGHT_BYTES[dtype] * self.weights + 2 * ACTIVATION_BYTES[dtype] * self.activations


@dataclass(frozen=True)
class Rates:
    """The peak rates of a machine.

    Attributes:
        flops: operations per second of a large matrix product.
        bandwidth: bytes per second of a large copy, read and written.
        product: the fastest product, by name.
    """

    flops: float
    bandwidth: float
    product: str


@dataclass(frozen=True)
class Floor:
    """The lower bound of the time of one forward.

    Attributes:
        floor_ms: milliseconds.
        bound: "arithmetic" or "traffic", whichever takes longer.
        flops: operations of the forward.
        bytes: its memory traffic.
        rates: of the machine.
    """

    floor_ms: float
    bound: str
    flops: int
    bytes: int
    rates: Rates

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        return asdict(self)


def floor(work: Work, dtype: str, rates: Rates) -> Floor:
    """`max(FLOPs / rate, bytes / bandwidth)`, in a dtype."""
    moved = work.bytes(dtype)
    arithmetic, traffic = work.flops / rates.flops, moved / rates.bandwidth
    bound = "arithmetic" if arithmetic >= traffic else "traffic"
    return Floor(1000.0 * max(arithmetic, traffic), bound, work.flops, moved, rates)


# The work of a model


def work(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Work | None:
    """Count one forward by running it once, on tensors `(batch, tokens)`; None for a model without hidden states.

    Attention is counted as its two matrix products: PyTorch's counter does not know the fused kernels of the CPU and
    would silently omit them.
    """
    model = copy.deepcopy(model)  # transformers leaves its hooks for hidden states on the model
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # the counter follows gradients, even in no_grad
    looked_up = LookUps()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, looked_up:
        outputs = model(**with_target(model, inputs), output_hidden_states=True)
    found = [own for name, own in outputs.items() if name.endswith("hidden_states") and own is not None]
    states = [state for own in found for state in own]
    if not states:
        return None
    activations = sum(state.numel() for state in states)
    return Work(counter.get_total_flops(), _weights(model, looked_up.rows), activations)


class LookUps(TorchFunctionMode):
    """Records which rows of which tables are looked up, whatever their modules are given: ids, or a shape.

    Attributes:
        rows: table `(rows, size)` -> the rows that have been looked up, once each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Tensor, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.embedding:
            indices, table = args[:2]
            seen = self.rows.get(table, indices.new_empty(0))
            self.rows[table] = torch.cat([seen, indices.flatten()]).unique()
        return func(*args, **(kwargs or {}))


def _weights(model: PreTrainedModel, rows: Mapping[Tensor, Tensor]) -> int:
    """Number of weights that one forward reads; of a table only the looked-up rows, unless it is a Linear's weight."""
    whole = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)} - whole
    read = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in tables)
    return read + sum(len(seen) * table.shape[1] for table, seen in rows.items() if id(table) not in whole)


# The rates of the machine


@cache
def rates(dtype: str, threads: int, device: str = "cpu") -> Rates:
    """Measure the machine with that many threads, once per process; the fastest of several runs counts.

    A product in another dtype can be slower than in fp32, as fp16 is on a processor without its instructions. The
    fastest product counts, and `Rates.product` names it.
    """
    place = torch.device(device)
    with thread_count(threads), torch.inference_mode():
        size = SIZES[place.type]
        seconds = {name: _fastest(product, place) for name, product in _products(dtype, size, place).items()}
        best = min(seconds, key=seconds.__getitem__)
        return Rates(2 * size**3 / seconds[best], _bandwidth(place), f"{best}, {size} x {size}")


def _products(dtype: str, size: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Name -> a way in which PyTorch multiplies two square matrices of a dtype.

    On the CPU it has two libraries for fp32: its BLAS, and oneDNN, which other runtimes use too.
    """
    ones = torch.ones(size, size, device=device)
    cast = ones.to(TORCH_DTYPES[dtype])
    products: dict[str, Callable[[], object]] = {"fp32 torch.mm": lambda: torch.mm(ones, ones)}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = ones.to_mkldnn()
        products["fp32 oneDNN linear"] = lambda: functional.linear(packed, packed)
    if dtype == "int8" and compat.multiplies_int8():
        products["int8 torch._int_mm"] = lambda: compat.int8_product(cast, cast)
    elif dtype in ("bf16", "fp16"):
        products[f"{dtype} torch.mm"] = lambda: torch.mm(cast, cast)
    return products


def _bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy, counting reads and writes."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES / _fastest(lambda: target.copy_(source), device)


def _fastest(call: Callable[[], object], device: torch.device, seconds: float = 0.5) -> float:
    """Seconds of the fastest call among those that start within `seconds`, after one for warm-up."""
    call()
    end, times = time.monotonic() + seconds, [time_ms(call, device)]
    while time.monotonic() < end:
        times.append(time_ms(call, device))
    return min(times) / 1000.0
