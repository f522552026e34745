"""Shows latencies: those of a benchmark of several models, and a table of the latencies of one."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.budget.latency import LatencyTable
from secateur.cli.output import show_notes, show_table
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.measure.peak_memory import OWN
from secateur.measure.prepared_models import BASELINE
from secateur.report.size_text import megabytes
from secateur.system.quantities import measured_dtype, timed_part


def show_results(results: Sequence[BenchmarkResult], dense: str | None) -> None:
    """Latencies by row and shape, sizes by row, and the protocol; speed-ups are over the model named `dense`."""
    labels = ("speed-up", f"over {' '.join(BASELINE)}") if dense is not None else ()
    columns = ("model", "runtime", "dtype", "batch x tokens", "median, ms", "quartiles, ms", *labels, "roofline")
    show_table(columns, [_latency_row(one, speed_ups=dense is not None) for one in results])
    _show_sizes(results)
    show_notes(_protocol(results, dense))


def _latency_row(one: BenchmarkResult, *, speed_ups: bool) -> list[str]:
    first, third = one.quartiles_ms
    ratios = (one.speed_up, one.speed_up_baseline) if speed_ups else ()
    return [
        *(one.model, one.runtime, one.dtype, f"{one.batch} x {one.tokens}"),
        *(f"{one.latency_ms:.2f}", f"{first:.2f}-{third:.2f}"),
        *(_times(ratio, 2) for ratio in ratios),
        _times(one.over_floor, 1),
    ]


def _times(ratio: float | None, digits: int) -> str:
    return "-" if ratio is None else f"{ratio:.{digits}f}x"


def _show_sizes(results: Sequence[BenchmarkResult]) -> None:
    """Parameters, bytes and peak memory of each row, the peak at the largest shape."""
    largest: dict[tuple[str, str, str], BenchmarkResult] = {}
    for one in sorted(results, key=lambda one: one.batch * one.tokens):
        largest[one.model, one.runtime, one.dtype] = one
    columns = ("model", "runtime", "dtype", "parameters", "weights, MB", "peak memory, MB", "the model's, MB")
    order = dict.fromkeys((one.model, one.runtime, one.dtype) for one in results)
    show_table(columns, [_size_row(largest[row]) for row in order])


def _size_row(one: BenchmarkResult) -> list[str]:
    parameters = "-" if one.parameters is None else f"{one.parameters:,}"
    peaks = ("-", "-") if one.peak is None else (f"{one.peak.process / 1e6:.0f}", f"{one.peak.model / 1e6:.0f}")
    return [one.model, one.runtime, one.dtype, parameters, megabytes(one.bytes), *peaks]


def _protocol(results: Sequence[BenchmarkResult], dense: str | None) -> list[str]:
    """How the numbers were measured, and what the columns mean."""
    p = results[0].protocol
    versions = ", ".join(dict.fromkeys(str(one.protocol["runtime"]) for one in results))
    measured = f"median of {p['repeats']} forwards after {p['warmup']} to warm up, {p['settle']} untimed before each"
    where = f"threads {p['threads']}, {p['device']}, {versions}, {p['machine']}"
    speed_up = f"speed-up: over {dense} in the same runtime and dtype, then over {dense} in {' '.join(BASELINE)}"
    return [
        f"{measured}, rows {p['order']}, {where}",
        *([] if dense is None else [speed_up]),
        *_rates(results),
        *_int8_ranges(results),
        f"memory: {_memory(results[0])}",
    ]


def _memory(one: BenchmarkResult) -> str:
    """What the columns of memory count, or why they are empty."""
    counted = str(one.protocol.get("memory", "not measured"))
    return counted if one.peak is None else f"{counted}; {OWN[str(one.protocol['device'])]}"


def _rates(results: Sequence[BenchmarkResult]) -> list[str]:
    """The rates of the machine that each roofline assumes."""
    rates_of = {one.dtype: one.floor.rates for one in results if one.floor is not None}
    return [
        f"roofline: median over max(FLOPs / rate, bytes / bandwidth); {dtype}: {rates.flops / 1e9:,.1f} GFLOP/s "
        f"({rates.product}), {rates.bandwidth / 1e9:,.1f} GB/s (copy, read and write)"
        for dtype, rates in rates_of.items()
    ]


def _int8_ranges(results: Sequence[BenchmarkResult]) -> list[str]:
    """Where the activation ranges of each int8 model come from."""
    ranges = {f"{one.model} in {one.runtime}": one.protocol["int8_ranges"] for one in results if one.dtype == "int8"}
    return [f"int8 of {row}: ranges of activations from {source}" for row, source in ranges.items()]


def show_latencies(table: LatencyTable) -> None:
    """The latency of the parts of the unpruned model, their sum, and the latency measured for the whole model."""
    costs = table.costs(table.hidden[-1])
    rows: dict[str, float] = {}
    whole = costs.rest
    for kind, own in costs.kinds.items():
        of, count = ("" if kind == "layers" else f"{kind}: "), table.blocks[kind].count
        whole += count * float(own.attention.flat[-1])
        rows |= {
            f"{of}attention, per layer": float(own.attention.flat[-1]),
            f"{of}attention without heads (bias only)": own.bare_attention,
        }
        if own.mlp.size:
            whole += count * float(own.mlp[-1])
            rows |= {
                f"{of}feed-forward network, per layer": float(own.mlp[-1]),
                f"{of}feed-forward network without neurons (bias only)": own.bare_mlp,
            }
    rows |= {"outside the layers": costs.rest, "the model, sum of these": whole, "the model, measured": table.dense_ms}
    show_table(("", "ms"), [(name, f"{ms:.3f}") for name, ms in rows.items()])
    p = table.protocol
    what = f"runs ({part})" if (part := timed_part(p)) else "forwards"
    show_notes(
        [
            f"{p['batch']} x {p['tokens']} tokens, median of {p['repeats']} {what}, {p['order']}, "
            f"threads {p['threads']}, {measured_dtype(p)}, {p['device']}, {p['runtime']}, {p['machine']}"
        ]
    )
