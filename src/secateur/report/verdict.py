"""Whether a run worked: what its model keeps of the teacher's score, with the standard error and a constant prediction.

The verdict is the last line of `secateur prune` and the first of a run's report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from secateur.measure.chance import BY_ERRORS, better_than
from secateur.report import baselines
from secateur.report.report import Report
from secateur.report.size_text import MEGABYTE
from secateur.system.quantities import at_most

RETENTION = 0.95
"""The part of the teacher's score from which a run worked, for a recipe that does not say (`measurement.retention`)."""
LEAST_SPEEDUP = 1.1
"""The smallest speed-up that is advised."""

BETTER_TEACHER = "As it is better than its teacher, a teacher that is trained for longer may be better than both."


@dataclass(frozen=True)
class Verdict:
    """The result of a run in a sentence.

    Attributes:
        worked: whether the model keeps the part of its teacher's score that the recipe expects.
        text: what it keeps.
        advice: what to try, if it did not work, or if the teacher is not what it could be.
        simpler: a baseline that is simpler and as good, or that there is none; empty for a run without baselines.
    """

    worked: bool
    text: str
    advice: str = ""
    simpler: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.advice, self.simpler)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"worked": self.worked, "text": self.text, "advice": self.advice, "simpler": self.simpler}


def verdict(report: Report) -> Verdict:
    """The verdict on a finished run.

    It did not work if the teacher or the pruned model is no better than a constant prediction (`chance.better_than`),
    and fell short if the model keeps less of the teacher's score than the recipe expects. Of a metric of which less is
    better no part is kept: there it fell short if the model is worse than its teacher by more than the standard error.
    """
    return replace(_judged(report), simpler=baselines.advice(report))


def _judged(report: Report) -> Verdict:
    metric, score, teacher = report.metric, report.scores[report.metric], report.teacher_scores[report.metric]
    numbers = f"{metric} {_numbers(report)}"
    if fault := _no_better(report, teacher):
        text = f"There was nothing to keep: the teacher {fault} ({numbers})."
        return Verdict(False, text, "Give more rows or a better teacher, or train one for longer (teacher_steps).")
    if fault := _no_better(report, score):
        text = f"It did not work: the model {fault} ({numbers})."
        return Verdict(False, text, _advice(report))
    if fault := _fault(report):
        return Verdict(False, f"It fell short: {fault}.", _advice(report))
    ahead = score - teacher if report.greater_is_better else teacher - score
    better = ahead > (report.standard_error or 0.0)
    return Verdict(True, f"It worked: {_kept(report)}.", BETTER_TEACHER if better else "")


def _no_better(report: Report, score: float) -> str:
    """That a score is no better than a constant prediction's, in words; empty if it is.

    The standard error of the model's score stands for that of the teacher's, which is of the same rows.
    """
    constant, greater = report.baseline, report.greater_is_better
    if better_than(constant, score, report.standard_error, greater):
        return ""
    by = f" {BY_ERRORS}" if better_than(constant, score, None, greater) else ""
    return f"is no better than {'0' if constant is None else 'a constant prediction'}{by}"


def _numbers(report: Report) -> str:
    """The score with its error, that of the teacher, and that of a constant prediction."""
    own = _with_error(report.scores[report.metric], report.standard_error)
    between = " of" if report.greater_is_better else ", the teacher has"
    numbers = f"{own}{between} {report.teacher_scores[report.metric]:.4f}"
    return numbers if report.baseline is None else f"{numbers}; a constant prediction has {report.baseline:.4f}"


def _fault(report: Report) -> str:
    """In what the model is worse than was asked for; empty if it is not."""
    if report.retention is None:
        lost = report.scores[report.metric] - report.teacher_scores[report.metric]
        short = lost > (report.standard_error or 0.0)
        by = "" if report.standard_error is None else " by more than its standard error"
        return f"the model's {report.metric} is worse than the teacher's{by} ({_numbers(report)})" if short else ""
    expected = report.recipe.get("measurement", {}).get("retention", RETENTION)
    return f"{_kept(report)}, less than {100 * expected:g}%" if report.retention < expected else ""


def _kept(report: Report) -> str:
    """What the model keeps of the teacher's score; where less is better, that it is no worse."""
    if report.retention is None:
        within = "" if report.standard_error is None else ", within its standard error"
        return f"the model's {report.metric} is no worse than the teacher's{within} ({_numbers(report)})"
    return f"the model keeps {report.retention:.1%} of the teacher's {report.metric} ({_numbers(report)})"


def _with_error(score: float, error: float | None) -> str:
    return f"{score:.4f}" if error is None else f"{score:.4f} ± {error:.4f}"


def _advice(report: Report) -> str:
    """What usually helps a model that lost too much of its score."""
    training = report.recipe.get("training", {})
    lengths = (f"--{name} {2 * training[name]:.12g}" for name in ("steps", "epochs") if training.get(name))
    steps = f"more steps ({option})" if (option := next(lengths, None)) else "more steps"
    more = _more(report)
    return f"Try {steps}, {more}, or another method." if more else f"Try {steps}, or another method."


def _more(report: Report) -> str:
    """A target that keeps twice as much, or as much as there is; empty if this one does already.

    A number of layers that was asked for bounds every amount, and a report does not say by how much.
    """
    what, option = _larger(report)
    bounded = report.recipe["target"].get("layers") is not None and report.depth is None
    return f"{what} ({option})" if option and not bounded else what


def _larger(report: Report) -> tuple[str, str]:
    """What there could be more of, and the option for it; empty where there is no more, or none is known of."""
    target, unpruned = report.recipe["target"], report.unpruned or {}
    if (density := target.get("density")) is not None:
        return _doubled("a higher density", density, 1.0, lambda part: f"--density {part:.2g}")
    if (size := target.get("size")) is not None:
        return _doubled("a larger file", size, unpruned.get("bytes"), _size_option)
    if (latency := target.get("latency")) is not None:
        whole = None if report.target is None else report.target["unpruned_ms"]["predicted"] / LEAST_SPEEDUP
        return _doubled("more time", latency, whole, lambda ms: f"--latency {at_most(ms, '.4g')}ms")
    if (speedup := target.get("speedup")) is not None:
        less = max(LEAST_SPEEDUP, speedup / 2)
        return ("a smaller speed-up", f"--speedup {less:.2g}") if less < speedup else ("", "")
    return _doubled("more units", target["keep"], unpruned.get("units"), lambda units: f"--keep {units:.0f}")


def _doubled(what: str, asked: float, whole: float | None, option: Callable[[float], str]) -> tuple[str, str]:
    """What there could be more of, and the option for twice as much as was asked for, or all that there is."""
    if whole is None:
        return what, ""
    return (what, option(min(2 * asked, whole))) if asked < whole else ("", "")


def _size_option(size: float) -> str:
    return f"--size {at_most(size / MEGABYTE, '.4g')}MB"
