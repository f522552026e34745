"""Whether a run worked: what its model keeps of the teacher's score, with the standard error and a constant prediction.

The verdict is the last line of `secateur prune` and the first of a run's report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateur.report import baselines
from secateur.report.report import Report
from secateur.report.size_text import megabytes

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

    It did not work if the teacher or the pruned model is no better than a constant prediction, and fell short if the
    model keeps less of the teacher's score than the recipe expects.
    """
    return replace(_judged(report), simpler=baselines.advice(report))


def _judged(report: Report) -> Verdict:
    metric, score, teacher = report.metric, report.scores[report.metric], report.teacher_scores[report.metric]
    numbers = f"{_with_error(score, report.standard_error)} of {teacher:.4f}"
    if report.baseline is not None:
        numbers += f"; a constant prediction has {report.baseline:.4f}"
    constant = "0" if report.baseline is None else "a constant prediction"
    if report.retention is None:
        text = f"There was nothing to keep: the teacher is no better than {constant} ({metric} {numbers})."
        return Verdict(False, text, "Give more rows or a better teacher, or train one for longer (teacher_steps).")
    if score <= (report.baseline or 0.0):
        text = f"It did not work: the model is no better than {constant} ({metric} {numbers})."
        return Verdict(False, text, _advice(report.recipe))
    kept = f"the model keeps {report.retention:.1%} of the teacher's {metric} ({numbers})"
    expected = report.recipe.get("measurement", {}).get("retention", RETENTION)
    if report.retention < expected:
        return Verdict(False, f"It fell short: {kept}, less than {100 * expected:g}%.", _advice(report.recipe))
    better = score > teacher + (report.standard_error or 0.0)
    return Verdict(True, f"It worked: {kept}.", BETTER_TEACHER if better else "")


def _with_error(score: float, error: float | None) -> str:
    return f"{score:.4f}" if error is None else f"{score:.4f} ± {error:.4f}"


def _advice(recipe: Mapping[str, Any]) -> str:
    """What usually helps a model that lost too much of its score."""
    training = recipe.get("training", {})
    lengths = (f"--{name} {2 * training[name]:g}" for name in ("steps", "epochs") if training.get(name))
    steps = f"more steps ({option})" if (option := next(lengths, None)) else "more steps"
    more = _more(recipe["target"])
    return f"Try {steps}, {more}, or another method." if more else f"Try {steps}, or another method."


def _more(target: Mapping[str, Any]) -> str:
    """A target that keeps twice as much, or as much as there is; empty if this one does already."""
    if (density := target.get("density")) is not None:
        return f"a higher density (--density {min(1.0, 2 * density):.2g})" if density < 1 else ""
    if (size := target.get("size")) is not None:
        return f"a larger file (--size {megabytes(2 * size)}MB)"
    if (latency := target.get("latency")) is not None:
        return f"more time (--latency {2 * latency:g}ms)"
    if (speedup := target.get("speedup")) is not None:
        less = max(LEAST_SPEEDUP, speedup / 2)
        return f"a smaller speed-up (--speedup {less:.2g})" if less < speedup else ""
    return f"more units (--keep {2 * target['keep']})"
