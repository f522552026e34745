"""What a user would otherwise take than a run's model: a table, its notes, and advice where one is as good.

A baseline is as good if its score is at least that of the pruned model, less its standard error, and better than that
of a constant prediction (`chance.better_than`). It is compared with the pruned model in its own runtime, in every dtype
in which that was measured; otherwise with it in PyTorch. Latencies are of forwards, and decide nothing where the run
was for a time of generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.measure.chance import better_than
from secateur.report.html import Content, DataTable, Notes, Section, Text
from secateur.report.report import Report
from secateur.report.size_text import megabytes
from secateur.system.quantities import timed_part

HEADING = "What you would otherwise take"
AHEAD = "The pruned model is ahead of its baselines: none has its score at its latency or at its size."
AHEAD_IN_SIZE = "The pruned model is ahead of its baselines: none has its score at its size."
TOLERANCE = 0.05
"""The part by which a latency may be longer and count as the same: medians of one model differ by about as much."""
PYTORCH = "pytorch"

Shape = tuple[int, int]
"""(batch, tokens)"""


@dataclass(frozen=True)
class Candidate:
    """The pruned model, or a model that may be taken in its place.

    Attributes:
        what: it is, in words.
        retention: the score over the teacher's; None where `report.retention` is.
        bytes: of its weights as they are stored.
        times: shape -> milliseconds, and the speed-up over the teacher in PyTorch in float32.
        runtime: in which it was scored and timed.
        trained: whether it was trained as the pruned model was.
    """

    what: str
    score: float
    retention: float | None
    bytes: int
    times: Mapping[Shape, tuple[float, float]]
    runtime: str
    trained: bool = False

    @property
    def latency(self) -> float | None:
        """Milliseconds at the largest shape; None if it was not timed."""
        return self.times[max(self.times, key=_size)][0] if self.times else None


def pruned(report: Report) -> list[Candidate]:
    """The pruned model of a run with baselines: in PyTorch, and in the runtimes of its baselines."""
    assert report.baselines is not None
    score, size, times = report.scores[report.metric], report.weight_bytes["model"], report.baselines["pruned"]
    own = Candidate("the pruned model", score, report.retention, size, _times(times), PYTORCH, trained=True)
    return [own, *(_candidate(report, row) for row in report.baselines["rows"] if row["pruned"])]


def others(report: Report) -> list[Candidate]:
    """The baselines of a run, in the order in which they were made; none for a run without them."""
    if report.baselines is None:
        return []
    return [_candidate(report, row) for row in report.baselines["rows"] if not row["pruned"]]


def _candidate(report: Report, row: Mapping[str, Any]) -> Candidate:
    same = {key: row[key] for key in ("what", "score", "bytes", "runtime", "trained")}
    kept = None if report.retention is None else row["retention"]  # the row was written before there was an error
    return Candidate(**same, retention=kept, times=_times(row["latency"]))


def _times(measured: Sequence[Mapping[str, Any]]) -> dict[Shape, tuple[float, float]]:
    return {(one["batch"], one["tokens"]): (one["latency_ms"], one["speed_up"]) for one in measured}


def _size(shape: Shape) -> int:
    return shape[0] * shape[1]


# Advice


def advice(report: Report) -> str:
    """The simplest baseline that is as good, in a sentence, or that there is none; empty for a run without baselines.

    Of several the one is named that is no slower and no larger, that needs no training, that is smaller, or better.
    """
    candidates = _compared(report, others(report))
    if not candidates:
        return ""
    sign = 1.0 if report.greater_is_better else -1.0
    found = [(one, equalled) for one in candidates if (equalled := _equalled(report, one, sign))]
    if not found:
        return AHEAD if _compared(report, pruned(report))[0].times else AHEAD_IN_SIZE
    one, equalled = min(found, key=lambda pair: (-len(pair[1]), pair[0].trained, pair[0].bytes, -sign * pair[0].score))
    return _sentence(report, one, equalled)


def _compared(report: Report, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates as they are compared: without times where these are not of what the run's target timed."""
    return [replace(one, times={}) for one in candidates] if _for_generation(report) else list(candidates)


def _for_generation(report: Report) -> bool:
    return report.target is not None and bool(timed_part(report.target["protocol"]))


def _equalled(report: Report, one: Candidate, sign: float) -> tuple[str, ...]:
    """In which of `latency` and `bytes` a baseline is no worse than the pruned model; in none if its score is worse."""
    against, error = _against(report, one), report.standard_error or 0.0
    if any(sign * (one.score - form.score) < -error for form in against) or _constant(report, one):
        return ()
    latencies = [(one.latency, form.latency) for form in against]
    as_fast = all(own is not None and ms is not None and own <= ms * (1 + TOLERANCE) for own, ms in latencies)
    as_small = all(one.bytes <= form.bytes for form in against)
    return (*(["latency"] if as_fast else []), *(["bytes"] if as_small else []))


def _constant(report: Report, one: Candidate) -> bool:
    """Whether a baseline is no better than a constant prediction, which is simpler still."""
    constant, greater = report.baseline, report.greater_is_better
    return constant is not None and not better_than(constant, one.score, report.standard_error, greater)


def _against(report: Report, one: Candidate) -> list[Candidate]:
    """The pruned model in the runtime of a baseline; in PyTorch if it was not measured there."""
    forms = _compared(report, pruned(report))
    return [form for form in forms if form.runtime == one.runtime] or forms[:1]


def _sentence(report: Report, one: Candidate, equalled: tuple[str, ...]) -> str:
    form = min(_against(report, one), key=lambda form: form.latency or 0.0)
    error = "" if report.standard_error is None else f" ± {report.standard_error:.4f}"
    ours = f"{form.what} {form.score:.4f}{error}{_costs(form)}"
    found = f"As good and simpler: {one.what} ({report.metric} {one.score:.4f}{_costs(one)}; {ours})"
    if len(equalled) > 1:
        return f"{found}: take that."
    if "bytes" in equalled:
        return f"{found}: it is no larger" + ("." if one.latency is None else ", but slower.")
    return f"{found}: it is no slower, but larger."


def _costs(one: Candidate) -> str:
    latency = "" if one.latency is None else f", {one.latency:.2f} ms"
    return f"{latency}, {megabytes(one.bytes)} MB"


# The table


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the pruned model, and what one would otherwise take."""
    candidates = [*pruned(report), *others(report)]
    shapes = sorted({shape for one in candidates for shape in one.times}, key=_size)
    head = ["", report.metric, "retention", "weights, MB"]
    for batch, tokens in shapes:
        head += [f"{batch} x {tokens}, ms", "speed-up"]
    return head, [_row(one, shapes) for one in candidates]


def _row(one: Candidate, shapes: Sequence[Shape]) -> list[str]:
    kept = "-" if one.retention is None else f"{one.retention:.1%}"
    row = [one.what, f"{one.score:.4f}", kept, megabytes(one.bytes)]
    for shape in shapes:
        ms, speed_up = one.times.get(shape, (None, None))
        row += ["-" if ms is None else f"{ms:.2f}", "-" if speed_up is None else f"{speed_up:.1f}x"]
    return row


def notes(report: Report) -> list[str]:
    """How the baselines were made and timed, and why some were left out."""
    assert report.baselines is not None
    lines = []
    if any(one.trained for one in others(report)):
        lines.append(
            "trained alike: with the terms, the rows, the learning rate and the number of steps of the run, those of "
            "pruning and recovery together"
        )
    if (p := report.baselines["protocol"]) is not None:
        lines.append(
            f"times of the baselines: median of {p['repeats']} forwards on the CPU, all models in turn, threads "
            f"{p['threads']}, {p['machine']}; speed-up over the teacher in PyTorch in float32; TF-IDF reads as many "
            "words as the others read tokens, and is timed alone"
        )
        if _for_generation(report):
            lines.append("the run was for a time of generation: these forwards say nothing of it, and decide nothing")
    left_out = report.baselines["left_out"].items()
    return [*lines, *(f"the baseline {name} is left out: {reason}" for name, reason in left_out)]


def section(report: Report) -> Section:
    """The section of a run's page; without contents for a run without baselines."""
    if report.baselines is None:
        return Section(HEADING, [])
    contents: list[Content] = [Notes(notes(report))]
    if others(report):
        contents = [Text(advice(report)), DataTable(f"{HEADING}, on the same rows", *table(report)), *contents]
    return Section(HEADING, contents)
