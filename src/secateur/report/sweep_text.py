"""A sweep as text: its title, its table of trials, its notes, and the command that repeats a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from shlex import quote
from typing import Any

from secateur.report.size_text import MEGABYTE, megabytes
from secateur.report.sweep import FAILED, FINISHED, STOPPED, SweepResult, SweepTrial
from secateur.system.quantities import quantity

FORMS: Mapping[str, str] = {
    "score": ".4f",
    "tuning": ".4f",
    "speedup": ".2f",
    "ms": ".2f",
    "parameters": ",.0f",
}
"""Objective, or number of a run -> the format of its values."""


def title(result: SweepResult) -> str:
    """The title of a page: "20 trials by score and speedup"."""
    return f"{quantity(len(result.trials), 'trial')} by {' and '.join(result.objectives)}"


def label(result: SweepResult, name: str) -> str:
    """An objective with its unit: "ms, 8 x 128"."""
    if name == "score":
        return f"{result.metric}, held out" if result.judged != result.scored else result.metric
    units = {"speedup": f"speed-up, {result.shape}", "ms": f"ms, {result.shape}", "mb": "weights, MB"}
    return units.get(name, name)


def scored_label(result: SweepResult) -> str:
    """The score on the rows that no trial is judged by: "accuracy, 421 validation rows"."""
    return f"{result.metric}, {result.scored}"


def table(result: SweepResult) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the best trials first, with a star, then the others in their order, with what is not finished."""
    names = list(result.objectives)
    scored = [scored_label(result)] if result.judged != result.scored else []
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.point))
    head = ["trial", *(label(result, name) for name in names), *scored, *short_keys(keys)]
    best = result.best
    rows = []
    for trial in [*best, *(trial for trial in result.trials if trial not in best)]:
        values = trial.values or [None] * len(names)
        mark = "*" if trial in best else "" if trial.state == FINISHED else f" {trial.state}"
        row = [f"{trial.number}{mark}"]
        row += [value_text(name, value) for name, value in zip(names, values, strict=True)]
        row += [value_text("score", trial.result.get("score")) for _ in scored]
        rows.append([*row, *(setting(trial.point[key]) if key in trial.point else "-" for key in keys)])
    return head, rows


def short_keys(keys: Collection[str]) -> list[str]:
    """Keys without their groups, which the values show: "density" of `target.density`, "method" of `method.name`.

    Those that would be alike have their groups: `training.learning_rate` beside `method.options.learning_rate`.
    """
    names = {key: _without_group(key) for key in keys}
    counts = Counter(names.values())
    return [key if counts[name] > 1 else name for key, name in names.items()]


def _without_group(key: str) -> str:
    group, _, name = key.rpartition(".")
    return group if name == "name" else name


def setting(value: Any) -> str:
    """A value of a key in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def value_text(name: str, value: float | None) -> str:
    """A value of an objective; a dash for a missing one."""
    if value is None:
        return "-"
    return megabytes(value * MEGABYTE) if name == "mb" else format(value, FORMS[name])


def notes(result: SweepResult) -> list[str]:
    """How trials are judged, chosen and counted."""
    aims = ", ".join(f"{name} {'low' if less else 'high'}" for name, less in result.objectives.items())
    front = "the best trial" if len(result.objectives) == 1 else "on the Pareto front of the objectives"
    lines = [f"*: {front}; wanted: {aims}; sampler {result.sampler}"]
    if result.judged != result.scored:
        lines.append(
            f"trials are chosen by {result.metric} on {result.judged}; the {result.scored} are only reported, so "
            "that the choice does not flatter them"
        )
    else:
        lines.append(f"trials are chosen by the {result.scored} on which they are reported, which flatters the best")
    counts = ", ".join(f"{result.count(state)} {state}" for state in (FINISHED, STOPPED, FAILED))
    asked = quantity(result.asked, "trial")
    if result.combinations is not None and result.combinations > result.asked:
        asked = f"{result.asked:,} of the {quantity(result.combinations, 'combination')} of the grid"
    lines.append(f"asked for {asked}: {counts}, {result.unfinished} unfinished")
    lines += [f"trial {trial.number} {trial.state}: {trial.why}" for trial in result.trials if trial.why]
    same = [f"{trial.number} as {trial.same_as}" for trial in result.trials if trial.same_as is not None]
    return (
        [*lines, f"the same values as an earlier trial, which was not run again: {', '.join(same)}"] if same else lines
    )


def command(trial: SweepTrial, folder: str = "SWEEP") -> str:
    """The command that repeats a trial where the sweep was started; the rows to tune by are learned from then.

    Args:
        folder: of the sweep, seen from there.
    """
    recipe, output = (
        quote(f"{folder}/{place}") for place in (f"trials/{trial.name}/recipe.yaml", f"best-{trial.name}")
    )
    return f"secateur prune --recipe {recipe} --set data.tuning_rows=0 --output {output}"
