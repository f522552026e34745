"""Whether a run worked: what its model keeps of the teacher's score, with the standard error and a constant prediction.

The verdict is the last line of `secateur prune`; a run's page and report begin with its first words, and its model card
has its first sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateur.measure.chance import BY_ERRORS, better_than
from secateur.report import baselines
from secateur.report.other_densities import predict, walk_of
from secateur.report.report import Report
from secateur.report.size_text import MEGABYTE, outcome
from secateur.system.quantities import at_most

RETENTION = 0.95
"""The part of the teacher's score from which a run worked, for a recipe that does not say (`measurement.retention`)."""
DENSITY = "--density"
LEAST_SPEEDUP = 1.1
"""The smallest speed-up that is advised."""

NOTHING_TO_KEEP = "There was nothing to keep"
"""The words of a run whose teacher is no better than a constant prediction."""


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

    @property
    def words(self) -> str:
        """The first words, which say whether it worked: "It worked", "It fell short", "It did not work" or a like."""
        return self.text.partition(":")[0]

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


def result_line(report: Report) -> str:
    """Whether a run worked, and what came out: "It worked: 99.0% of the accuracy, 2.7x faster, 1.8x smaller"."""
    return f"{verdict(report).words}: {outcome(report)}"


def _judged(report: Report) -> Verdict:
    metric, score, teacher = report.metric, report.scores[report.metric], report.teacher_scores[report.metric]
    numbers = f"{metric} {_numbers(report)}"
    if fault := _no_better(report, teacher):
        return Verdict(False, f"{NOTHING_TO_KEEP}: the teacher {fault} ({numbers}).", _advice_of_teacher(report))
    if fault := _no_better(report, score):
        text = f"It did not work: the model {fault} ({numbers})."
        return Verdict(False, text, _advice(report))
    if fault := _fault(report):
        return Verdict(False, f"It fell short: {fault}.", _advice(report))
    ahead = score - teacher if report.greater_is_better else teacher - score
    better = ahead > (report.standard_error or 0.0)
    return Verdict(True, f"It worked: {_kept(report)}.", _better_teacher(report) if better else "")


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


def longer_teacher(training: Mapping[str, Any]) -> tuple[str, str]:
    """The key of a recipe for a longer training of a teacher, and its value.

    Args:
        training: the group of a recipe.
    """
    name = "teacher_epochs" if training.get("teacher_epochs") else "teacher_steps"
    return f"training.{name}", f"{2 * training[name]:.12g}"


def _advice_of_teacher(report: Report) -> str:
    """What usually helps where the teacher has no score to keep."""
    if longer := _longer_teacher(report):
        return f"Give more rows, or train the teacher for longer ({longer})."
    return "Give more rows or a better teacher."


def _better_teacher(report: Report) -> str:
    """What may be better than a model that is better than its teacher."""
    option = f" ({longer})" if (longer := _longer_teacher(report)) else ""
    return f"As it is better than its teacher, a teacher that is trained for longer{option} may be better than both."


def _longer_teacher(report: Report) -> str:
    """The option for a longer training of a teacher that was trained in the run; empty for another one."""
    training = report.recipe.get("training", {})
    if report.teacher is None or "teacher_steps" not in training:
        return ""
    return "--set {}={}".format(*longer_teacher(training))


def _advice(report: Report) -> str:
    """What usually helps a model that lost too much of its score."""
    length, more = _longer(report), _more(report)
    steps = f"more steps ({length})" if length else "more steps"
    return f"Try {steps}, {more}, or another method." if more else f"Try {steps}, or another method."


def _longer(report: Report) -> str:
    """The option for twice the steps, by the option that the run was given; empty where its length is not known."""
    training = {**report.recipe.get("training", {}), **({"minutes": report.length["minutes"]} if report.length else {})}
    lengths = (f"--{name} {2 * training[name]:.12g}" for name in ("minutes", "steps", "epochs") if training.get(name))
    return next(lengths, "")


def _more(report: Report) -> str:
    """A target that keeps more, with the score to expect there if that is predicted; empty where there is no more.

    A number of layers that was asked for bounds every amount, and a report does not say by how much.
    """
    what, option = _larger(report)
    bounded = report.recipe["target"].get("layers") is not None and report.depth is None
    if not option or bounded:
        return what
    instead = "" if report.goal is None else " in place of --keep-score"
    return f"{what} ({option}{instead}{_expected(report, option)})"


def _expected(report: Report, option: str) -> str:
    """The score to expect of a run with a higher density, in words; empty where none is predicted."""
    walk, (name, _, value) = walk_of(report), option.partition(" ")
    found = predict(walk, [float(value)]) if walk is not None and name == DENSITY else []
    return "".join(f", expected {report.metric} {one.score:.3f}" for one in found)


def _larger(report: Report) -> tuple[str, str]:
    """What there could be more of, and the option for it; empty where there is no more, or none is known of."""
    target, unpruned = report.recipe["target"], report.unpruned or {}
    if (density := target.get("density")) is not None:
        return _doubled("a higher density", density, 1.0, lambda part: f"{DENSITY} {at_most(part, '.2g')}")
    if (size := target.get("size")) is not None:
        return _doubled("a larger file", size, unpruned.get("bytes"), _size_option)
    if (latency := target.get("latency")) is not None:
        whole = None if report.target is None else report.target["unpruned_ms"]["predicted"] / LEAST_SPEEDUP
        return _doubled("more time", latency, whole, lambda ms: f"--latency {at_most(ms, '.4g')}ms")
    if (speedup := target.get("speedup")) is not None:
        less = max(LEAST_SPEEDUP, speedup / 2)
        return ("a smaller speed-up", f"--speedup {less:.2g}") if less < speedup else ("", "")
    return _doubled("more units", target["keep"], unpruned.get("units"), lambda units: f"--keep {int(units)}")


def _doubled(what: str, asked: float, whole: float | None, option: Callable[[float], str]) -> tuple[str, str]:
    """What there could be more of, and the option for twice as much as was asked for, if that still prunes.

    Otherwise, or close to the whole, halfway to that; nothing if this is not more as it is written.
    """
    if whole is None:
        return what, ""
    more = option(min(2 * asked, (asked + whole) / 2))
    return (what, more) if asked < whole and more != option(asked) else ("", "")


def _size_option(size: float) -> str:
    return f"--size {at_most(size / MEGABYTE, '.4g')}MB"
