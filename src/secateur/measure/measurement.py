"""The result of `bench.measure`: a latency with its protocol, and that of the model it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from secateur.measure.model_size import parameter_count
from secateur.measure.timing import median_and_quartiles
from secateur.system.quantities import measured_dtype, timed_part

Protocol: TypeAlias = dict[str, int | str]
"""How a number was measured: name of a condition -> its value."""


@dataclass(frozen=True)
class Measurement:
    """The latency of one model and, where two were measured together, of the one it is compared with.

    Attributes:
        latency_ms: median time of one full forward of one batch, in milliseconds.
        quartiles_ms: first and third quartile of that time, in milliseconds.
        parameters: numbers stored in the model's parameters, padding included; a shared parameter counts once.
        protocol: how it was measured: batch and tokens (the shape), repeats, warmup, threads, dtype, device,
            runtime, attention (implementation), machine, order and seed; for an encoder-decoder also the part, in int8
            what determined the ranges of activations (int8_ranges).
        against: the measurement of the model it is compared with; None if the model was measured alone.
    """

    latency_ms: float
    quartiles_ms: tuple[float, float]
    parameters: int
    protocol: Protocol
    against: Measurement | None = None

    @property
    def speed_up(self) -> float | None:
        """The median of `against` over this one: above 1 if this model is faster. None if measured alone."""
        return None if self.against is None else self.against.latency_ms / self.latency_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, ready for JSON; `speed_up` included."""
        other = None if self.against is None else self.against.to_dict()
        mine = asdict(self) | {"quartiles_ms": list(self.quartiles_ms)}
        return mine | {"speed_up": self.speed_up, "against": other}

    def __str__(self) -> str:
        """Two lines to print: the latency and the protocol."""
        result = f"{self._latency()}, {self.parameters:,} parameters"
        if self.against is not None:
            result += f"; {self.speed_up:.2f}x the speed of {self.against._latency()}"
            result += f", {self.against.parameters:,} parameters"
        p = self.protocol
        part = f"{own}, " if (own := timed_part(p)) else ""
        return (
            f"{result}\n"
            f"{part}batch {p['batch']} x {p['tokens']} tokens, median of {p['repeats']} (quartiles) after "
            f"{p['warmup']} to warm up, {p['order']}, threads {p['threads']}, {measured_dtype(p)}, "
            f"attention {p['attention']}, {p['device']}, {p['runtime']}, {p['machine']}"
        )

    def _latency(self) -> str:
        return f"{self.latency_ms:.2f} ms ({self.quartiles_ms[0]:.2f}-{self.quartiles_ms[1]:.2f})"


def summary(
    model: PreTrainedModel, times_ms: Sequence[float], protocol: Protocol, against: Measurement | None = None
) -> Measurement:
    """Median and quartiles of one model's times, with its protocol."""
    median, quartiles = median_and_quartiles(times_ms)
    return Measurement(median, quartiles, parameter_count(model), protocol, against)
