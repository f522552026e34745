"""A report as text: its table of scores, its footnotes, and the whole report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report import baselines, classes_section, markdown, other_densities_section
from secateur.report.names import shown
from secateur.report.report import Report
from secateur.report.size_text import headline, megabytes, parts_note, shape, times_smaller
from secateur.report.verdict import result_line, verdict
from secateur.system.quantities import measured_dtype, quantity

COLUMNS = ("layer", "heads", "qk", "vo", "ffn", "hidden")
"""Columns of the table of kept units, as `Reading.summary` names them."""


def target_text(report: Report) -> str:
    """What the recipe asks for: "density 0.05", "5 MB", "keep 12", "5 ms" or "4x"."""
    target = report.recipe["target"]
    if target["density"] is not None:
        return f"density {target['density']:g}"
    if target.get("size") is not None:
        return f"{megabytes(target['size'])} MB"
    if target.get("keep") is not None:
        return f"keep {target['keep']}"
    return f"{target['latency']:g} ms" if target["latency"] is not None else f"{target['speedup']:g}x"


def title(report: Report) -> str:
    """The method and its target: "grain at density 0.05"."""
    return f"{report.recipe['method']['name']} at {target_text(report)}"


def subject(report: Report) -> str:
    """The model and the data: "bert-base-uncased on glue/sst2"."""
    model, data = report.recipe["model"], report.recipe["data"]["source"]
    return f"{shown(model, report.paths)} on {shown(data, report.paths)}"


def score_table(report: Report) -> list[tuple[str, str, str]]:
    """Rows of (what, teacher, pruned): scores, densities, sizes and times."""
    parameters, size = report.parameters, report.weight_bytes
    table = [
        (report.metric, f"{report.teacher_scores[report.metric]:.4f}", f"{report.scores[report.metric]:.4f}"),
        ("retention", "100%", "-" if report.retention is None else f"{report.retention:.1%}"),
        ("density, prunable", "1", f"{report.density['prunable']:.4f}"),
        ("density, whole model", "1", f"{report.density['model']:.4f}"),
        *_tile_densities(report),
        ("parameters", f"{parameters['teacher']:,}", f"{parameters['model']:,}"),
        ("weights, MB", megabytes(size["teacher"]), f"{megabytes(size['model'])} ({times_smaller(size)})"),
        *_asked_size(report.recipe["target"]),
    ]
    for one in report.latency:
        dense = one["against"]["latency_ms"]
        table.append((f"latency {shape(one)}, ms", f"{dense:.2f}", f"{one['latency_ms']:.2f}"))
        table.append((f"speed-up {shape(one)}", "1", f"{one['speed_up']:.1f}x"))
    return table if report.target is None else table + _target_rows(report.target)


def _asked_size(target: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The row of a size that was asked for."""
    return [] if target.get("size") is None else [("weights asked for, MB", "", megabytes(target["size"]))]


def _tile_densities(report: Report) -> list[tuple[str, str, str]]:
    """Rows for a model pruned by tiles, whose removed tiles remain stored as zeros inside kept weights."""
    if (filled := report.density.get("filled")) is None:
        return []
    inside = f"{report.density['prunable'] / filled:.4f}" if filled else "-"
    return [("density, with stored zeros", "1", f"{filled:.4f}"), ("density within stored weights", "1", inside)]


def _target_rows(target: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of a time that was asked for, which say nothing of the teacher: speed-ups are over the student."""
    return [
        (what, "", f"{pruned}, {unpruned} before pruning" if unpruned else pruned)
        for what, unpruned, pruned in target_table(target)
    ]


def target_table(target: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of (what, time of the unpruned model, time and speed-up of the pruned one): asked, predicted, measured."""
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (
            f"{what} {shape(target)}, ms",
            dense.get(what, ""),
            f"{target[f'{what}_ms']:.2f} ({target[f'{what}_speedup']:.1f}x)",
        )
        for what in ("asked", "predicted", "measured")
    ]


def kept_table(report: Report) -> list[tuple[str, ...]]:
    """Rows of kept / total units: one for each layer and one for the residual stream; columns as in `COLUMNS`."""
    return [tuple(str(row.get(column, "")) for column in COLUMNS) for row in report.structure]


def footnotes(report: Report) -> list[str]:
    """Denominators and protocol of the numbers."""
    return score_notes(report) + time_notes(report)


def score_notes(report: Report) -> list[str]:
    """Footnotes about scores, densities, verification, and the time and memory of the run."""
    others = [
        f"{name} {score_text(report.teacher_scores[name])} and {score_text(score)}"
        for name, score in report.scores.items()
        if name != report.metric
    ]
    error = "" if report.standard_error is None else f", standard error {report.standard_error:.4f}"
    notes = [f"{report.metric} on {report.scored_rows}, seed {report.recipe['seed']}, float32{error}"]
    if others:
        notes.append(f"other scores, teacher and pruned: {', '.join(others)}")
    notes.append(
        "density, prunable: kept weights and inner biases of the layers over all of them (GRAIN's denominator); "
        "whole model: all parameters, embeddings and head included, to which the size of the file corresponds"
    )
    notes += parts_note(report)
    notes += _choices(report)
    if "filled" in report.density:
        notes.append(
            "with stored zeros: removed tiles count too where other tiles of the same weight are kept; within stored "
            "weights: the fraction of these numbers that are in kept tiles"
        )
    notes += [
        f"largest difference of a logit on {report.verified['examples']} inputs: masked to compact model "
        f"{report.verified['masked_compact']:.1e}, compact to reloaded model {report.verified['compact_loaded']:.1e}",
        "wall-clock, s (of prune and recover that of the training): "
        + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in report.seconds.items()),
    ]
    return notes if report.memory is None else notes + _peak_notes(report.memory)


def _choices(report: Report) -> list[str]:
    """Footnotes about what the run has chosen itself."""
    notes = [] if report.teacher is None else [teacher_sentence(report.teacher, report.metric)]
    if report.tuning is not None:
        rows, score = report.tuning["rows"], score_text(report.tuning["score"])
        metric = report.metric_of_training_rows
        notes.append(f"{metric} {score} on {rows:,} training rows that were held out of all training to tune by")
    if report.outputs is not None and not report.outputs["cached"]:
        notes.append(f"the teacher ran beside the student in every step: {report.outputs['why']}")
    if report.vocabulary is not None:
        notes.append(f"vocabulary: {vocabulary_sentence(report.vocabulary)}")
    if report.goal is not None:
        notes.append(goal_sentence(report.goal, report.metric_of_training_rows))
    if report.depth is not None:
        notes.append(depth_sentence(report.depth, report.metric_of_training_rows))
    if report.rounds is not None:
        notes.append(rounds_sentence(report.rounds))
    return notes


def vocabulary_sentence(vocabulary: Mapping[str, Any]) -> str:
    """How many pieces are kept, and what that changes in the scored rows, without a full stop."""
    pieces, coverage = vocabulary["pieces"], vocabulary["coverage"]
    return (
        f"{pieces['model']:,} of {pieces['teacher']:,} pieces are kept, with which {coverage['same']:.1%} of "
        f"the scored rows have the same tokens as before; unknown tokens {coverage['unknown_before']:.2%} before, "
        f"{coverage['unknown_after']:.2%} after"
    )


def teacher_sentence(teacher: Mapping[str, Any], metric: str) -> str:
    """How the teacher was trained, and from which scores on how many rows that was chosen, without a full stop."""
    trained = f"the teacher was trained in {_setting(teacher)}"
    if not teacher.get("trials"):
        return trained
    trials = ", ".join(f"{_setting(trial)} {score_or_diverged(trial['score'])}" for trial in teacher["trials"])
    return f"{trained}, chosen by short trials ({metric} on {teacher['rows']:,} held-out training rows: {trials})"


def _setting(values: Mapping[str, Any]) -> str:
    return f"{quantity(values['steps'], 'step')} at {values['learning_rate']:.1e}"


def goal_sentence(goal: Mapping[str, Any], metric: str) -> str:
    """The density that was chosen to keep a part of the score, and why, without a full stop."""
    asked = f"{100 * goal['keep_score']:g}% of the teacher's {metric}"
    tried, teacher = goal.get("trials", []), goal["teacher"]
    if goal.get("nothing_to_keep"):
        return f"density {goal['density']:g}, untried: the teacher is no better than a constant prediction"
    if not tried:
        return f"density {goal['density']:g}, to keep {asked}: no other density to choose from can be reached"
    chosen = f"density {goal['density']:g} is the smallest that is expected to keep {asked}, by short trials"
    if all(trial["density"] != goal["density"] for trial in tried):
        chosen = f"density {goal['density']:g} is the largest to choose from: by short trials no other keeps {asked}"
    trials = ", ".join(f"{trial['density']:g} {_trial_score(trial)}" for trial in tried)
    return (
        f"{chosen} ({metric} on {goal['rows']:,} held-out training rows: {trials}; needed by the standard error "
        f"{goal['needed']:.4f}; teacher {teacher['held_out']:.4f}, on the scored rows {teacher['validation']:.4f})"
    )


def _trial_score(trial: Mapping[str, Any]) -> str:
    error = trial["standard_error"]
    return score_or_diverged(trial["score"]) + ("" if error is None else f" ± {error:.4f}")


def score_or_diverged(score: float | None) -> str:
    """The score of a trial; one whose training diverged has none."""
    return "diverged" if score is None else f"{score:.4f}"


def depth_sentence(depth: Mapping[str, Any], metric: str) -> str:
    """What was chosen, from which scores on how many rows, without a full stop."""
    scores = ", ".join(f"{trial_name(trial, depth)} {score_or_diverged(trial['score'])}" for trial in depth["trials"])
    chosen = f"{depth['layers']} of {depth['of']} layers are kept first"
    if depth["layers"] == depth["of"]:
        chosen = f"no layer of {depth['of']} is removed first"
    return f"{chosen}, by short trials ({metric} on {depth['rows']:,} held-out training rows: {scores})"


def rounds_sentence(rounds: Mapping[str, Any]) -> str:
    """When layers and finer units are removed, and the recovery between, without a full stop."""
    begin, removed, recovered, finer = (f"{rounds[key]:.0%}" for key in ("begin", "removed", "recovered", "finer"))
    return (
        f"in rounds: all layers but {rounds['layers']} are removed from {begin} to {removed} of the run, the model "
        f"then recovers until {recovered}, and finer units are removed from {finer} on"
    )


def trial_name(trial: Mapping[str, Any], depth: Mapping[str, Any]) -> str:
    """The number of layers of a trial, in words."""
    return "all layers" if trial["layers"] == depth["of"] else f"{trial['layers']} of {depth['of']}"


def time_notes(report: Report) -> list[str]:
    """Footnotes about latencies; none for a report without them."""
    notes = []
    if report.target is not None:
        notes.append(_target_note(report.target))
    if report.latency:
        p = report.latency[0]["protocol"]
        notes.append(f"latency: median of {p['repeats']} forwards, {p['order']}, {_conditions(p)}")
    return notes


def _target_note(target: Mapping[str, Any]) -> str:
    """How a target was measured, and the run's latency table where that was measured otherwise."""
    measured = _conditions(target["protocol"])
    predicted = measured if target.get("table") is None else _conditions(target["table"])
    if predicted == measured:
        return f"latency asked for, predicted from the run's latency table, and measured at the end: {measured}"
    return (
        f"latency asked for, and predicted from the run's latency table: {predicted}; measured at the end: {measured}"
    )


def _peak_notes(memory: Mapping[str, Any]) -> list[str]:
    """A line for each kind of memory: the peak of each stage, then that of the whole run."""
    stages = sorted((name for name in memory if name != "counted"), key="run".__eq__)
    kinds = dict.fromkeys(kind for stage in stages for kind in memory[stage])
    peaks = {
        kind: ", ".join(f"{stage} {memory[stage][kind] / 1e6:,.0f}" for stage in stages if kind in memory[stage])
        for kind in kinds
    }
    return [f"peak memory, {kind}, MB: {values} ({memory['counted']})" for kind, values in peaks.items()]


def _conditions(protocol: Mapping[str, Any]) -> str:
    threads, dtype = quantity(protocol["threads"], "thread"), measured_dtype(protocol)
    return f"{threads}, {dtype}, {protocol['runtime']}, {protocol['machine']}"


def to_markdown(report: Report) -> str:
    """The table of scores, the table of kept units, and the footnotes."""
    lines = [
        f"# {result_line(report)}",
        "",
        f"{subject(report)}: {title(report)}",
        "",
        str(verdict(report)),
        "",
        f"**{headline(report)}**",
        "",
    ]
    lines += markdown.table(("", "teacher", "pruned"), score_table(report))
    lines += [*classes_section.markdown_lines(report), *_baselines(report)]
    lines += ["", "## What was kept (kept / total)", "", *markdown.table(COLUMNS, kept_table(report))]
    lines += [*other_densities_section.markdown_lines(report), ""]
    lines += [f"- {note}" for note in footnotes(report)]
    return "\n".join(lines) + "\n"


def _baselines(report: Report) -> list[str]:
    """The table of what one would otherwise take, and its notes; none for a run without baselines."""
    if report.baselines is None:
        return []
    rows = markdown.table(*baselines.table(report)) if baselines.others(report) else []
    return ["", f"## {baselines.HEADING}", "", *rows, "", *(f"- {note}" for note in baselines.notes(report))]


def score_text(score: float) -> str:
    """A score with four decimals, a count as an integer."""
    return str(score) if isinstance(score, int) else f"{score:.4f}"
