"""The size of a run's model in words: megabytes before and after beside speed and score, and where the bytes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from secateur.report.report import Report
from secateur.system.quantities import timed_part

MEGABYTE = 1e6


class Time(NamedTuple):
    """The time that a report leads with.

    Attributes:
        before_ms: of the unpruned model where a time was asked for, else of the teacher.
        at: batch x tokens, and what was timed where that is not a forward.
    """

    ms: float
    before_ms: float
    speed_up: float
    at: str


def megabytes(count: float, form: Callable[[float, str], str] = format) -> str:
    """Bytes in MB, which are 10^6 bytes: one decimal, or for less than 1 MB three digits.

    Args:
        form: `quantities.at_least` for a floor, `at_most` for a ceiling.
    """
    size = count / MEGABYTE
    return form(size, ".1f" if size >= 1 or not size else ".3g")


def headline(report: Report) -> str:
    """Size, speed and score, before and after: "90.9 -> 5.6 MB, 16.2x smaller; 5.00 -> 2.00 ms, 2.5x faster ..."."""
    before, after = report.teacher_scores[report.metric], report.scores[report.metric]
    time = leading_time(report)
    parts = [size_change(report.weight_bytes), *([] if time is None else [_speed_change(time)])]
    return "; ".join([*parts, f"{report.metric} {before:.4f} -> {after:.4f}"])


def outcome(report: Report) -> str:
    """What came out, in one line: "99.0% of the accuracy, 2.7x to 6.8x faster, 1.8x smaller"."""
    before, after = report.teacher_scores[report.metric], report.scores[report.metric]
    score = f"{report.metric} {before:.4f} -> {after:.4f}"
    if report.retention is not None:
        score = f"{report.retention:.1%} of the {report.metric}"
    return ", ".join([score, *_speed_ups(report), times_smaller(report.weight_bytes)])


def _speed_ups(report: Report) -> list[str]:
    """The speed-up of what was asked for, or else the smallest and the largest that were measured."""
    found, where = sorted(one["speed_up"] for one in report.latency), ""
    if report.target is not None:
        found, where = [report.target["measured_speedup"]], f" ({shape(report.target)})"
    if not found:
        return []
    texts = list(dict.fromkeys(f"{speed_up:.1f}x" for speed_up in (found[0], found[-1])))
    if found[-1] <= 1:
        return [f"{' to '.join(texts)} as fast{where}"]
    return [f"{' to '.join(texts)} {'faster' if found[0] >= 1 else 'the speed'}{where}"]


def size_change(weight_bytes: Mapping[str, int]) -> str:
    """Bytes of the teacher's and the model's weights: "90.9 -> 5.6 MB, 16.2x smaller"."""
    before, after = weight_bytes["teacher"], weight_bytes["model"]
    return f"{megabytes(before)} -> {megabytes(after)} MB, {times_smaller(weight_bytes)}"


def times_smaller(weight_bytes: Mapping[str, int]) -> str:
    """How many times smaller than the teacher's weights those of the model are: "16.2x smaller"."""
    return factor(weight_bytes["teacher"], weight_bytes["model"], "smaller", "larger")


def factor(before: float, after: float, less: str, more: str) -> str:
    """How many times less, or more: "16.2x smaller"."""
    return f"{before / after:.1f}x {less}" if after <= before else f"{after / before:.1f}x {more}"


def leading_time(report: Report) -> Time | None:
    """The time of what was asked for, or else of the largest shape; None if none was measured."""
    if (target := report.target) is not None:
        return Time(target["measured_ms"], target["unpruned_ms"]["measured"], target["measured_speedup"], shape(target))
    sizes = [one["protocol"]["batch"] * one["protocol"]["tokens"] for one in report.latency]
    if not sizes:
        return None
    one = report.latency[sizes.index(max(sizes))]
    return Time(one["latency_ms"], one["against"]["latency_ms"], one["speed_up"], shape(one))


def shape(measured: Mapping[str, Any]) -> str:
    """Batch x tokens of a measurement, and what was timed where it is not a whole forward, from its protocol."""
    protocol = measured["protocol"]
    part = f", {own}" if (own := timed_part(protocol)) else ""
    return f"{protocol['batch']} x {protocol['tokens']}{part}"


def _speed_change(time: Time) -> str:
    change = factor(time.before_ms, time.ms, "faster", "slower")
    return f"{time.before_ms:.2f} -> {time.ms:.2f} ms, {change} at {time.at}"


def parts_note(report: Report) -> list[str]:
    """A footnote of the megabytes in each part of teacher and model; none for a run that did not record them."""
    if report.bytes is None:
        return []
    teacher, model = report.bytes["teacher"], report.bytes["model"]
    parts = ", ".join(f"{part} {megabytes(teacher[part])} -> {megabytes(model[part])}" for part in model)
    return [f"where the bytes are, MB, teacher (float32) -> model: {parts}{_of_output(report.shared_output, teacher)}"]


def _of_output(shared: bool | None, teacher: Mapping[str, int]) -> str:
    """Where the output layer is, if it has no part; a report of before does not say whether there is one."""
    if shared:
        return "; the output layer shares the embeddings"
    return "; no head has weights of its own" if shared is None and not teacher["head"] else ""


def parts_text(parts: Mapping[str, int]) -> str:
    """The megabytes of each part of one model: "embeddings 46.9, layers 42.5, head 0.6"."""
    return ", ".join(f"{part} {megabytes(count)}" for part, count in parts.items())
