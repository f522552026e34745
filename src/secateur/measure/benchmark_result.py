"""The results of a benchmark, and the speed-ups between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from secateur.measure.peak_memory import Peak
from secateur.measure.prepared_models import BASELINE
from secateur.measure.roofline import Floor


@dataclass(frozen=True)
class BenchmarkResult:
    """One model in one runtime, dtype and shape.

    Attributes:
        model: its name.
        runtime: a registered runtime; on a GPU one of `gpu.RUNTIMES`.
        dtype: one of `runtime.DTYPES`.
        batch: sequences in a forward.
        tokens: tokens in each of them.
        latency_ms: median time of one forward.
        quartiles_ms: its first and third quartile.
        parameters: numbers stored in the model, padding included; None for an exported file.
        bytes: size of its weights as this runtime stores them.
        peak: peak memory; None if it was not measured.
        floor: the roofline's lower bound of the latency on this machine; None for an exported file, and for a model
            that returns no hidden states.
        protocol: how it was measured: name of a condition -> its value.
        speed_up: the dense model's median, in the same runtime and dtype, over this one; None without a dense model.
        speed_up_baseline: the dense model's median in PyTorch fp32 over this one; None without a dense model.
    """

    model: str
    runtime: str
    dtype: str
    batch: int
    tokens: int
    latency_ms: float
    quartiles_ms: tuple[float, float]
    parameters: int | None
    bytes: int
    peak: Peak | None
    floor: Floor | None
    protocol: dict[str, int | str]
    speed_up: float | None = None
    speed_up_baseline: float | None = None

    @property
    def over_floor(self) -> float | None:
        """The median latency over the roofline's floor: 1 is the best that the machine can reach."""
        return None if self.floor is None else self.latency_ms / self.floor.floor_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, ready for JSON; `over_floor` included."""
        return asdict(self) | {"quartiles_ms": list(self.quartiles_ms), "over_floor": self.over_floor}


def with_speed_ups(results: Sequence[BenchmarkResult], dense: str | None) -> list[BenchmarkResult]:
    """The results with their speed-ups, which stay None where the dense model has no result to compare with."""
    by_shape: dict[tuple[int, int], dict[tuple[str, str], float]] = {}
    for one in results:
        medians = by_shape.setdefault((one.batch, one.tokens), {})
        if one.model == dense:
            medians[one.runtime, one.dtype] = one.latency_ms
    return [_with_speed_ups(one, by_shape[one.batch, one.tokens]) for one in results]


def _with_speed_ups(one: BenchmarkResult, medians: Mapping[tuple[str, str], float]) -> BenchmarkResult:
    """A result with its speed-ups, given the dense model's medians at its shape, by runtime and dtype."""
    same, baseline = medians.get((one.runtime, one.dtype)), medians.get(BASELINE)
    return replace(
        one,
        speed_up=None if same is None else same / one.latency_ms,
        speed_up_baseline=None if baseline is None else baseline / one.latency_ms,
    )
