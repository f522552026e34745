"""Stage 8: the result is scored and timed against its teacher, and the report is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.measure import evaluation
from secateur.measure.bench import grid
from secateur.measure.latency_sweep import measure_again, target_reached
from secateur.measure.measurement import Measurement
from secateur.measure.model_size import dense_parts, disk_bytes, parameter_count, shares_embeddings, stored_parts
from secateur.report import run_page
from secateur.report.model_card import card
from secateur.report.names import paths_in
from secateur.report.report import Report
from secateur.run import output_cache, ramp_scores, run_length, run_rounds, vocabulary_data
from secateur.run.context import Context
from secateur.run.models import base_model, load_compact, load_teacher, shaped, teacher_classes, teacher_scores
from secateur.run.records import FORMAT, VERIFIED, VERSIONS
from secateur.run.run_data import training_fingerprint, tuning_score
from secateur.run.run_folder import EARLIER
from secateur.run.stages import baselines, density, depth
from secateur.run.stages import teacher as teacher_stage
from secateur.run.target import read_latency_table
from secateur.structure.plan import Plan
from secateur.system import processes
from secateur.system.files import atomic_write
from secateur.system.model_state import on_device
from secateur.tasks.class_scores import ClassScore
from secateur.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """The result and its teacher, each with every metric of the task on the scored rows.

    Attributes:
        found: by the result.
        standard_error: of the result's main metric.
        tuning: the result's score on the rows to tune by; None where there are none.
    """

    model: PreTrainedModel
    teacher: PreTrainedModel
    found: evaluation.Scored
    standard_error: float | None
    teacher_scores: dict[str, float]
    teacher_classes: list[ClassScore] | None
    tuning: dict[str, Any] | None


class Times(NamedTuple):
    """The latency of the result beside its teacher's at each shape, and that of the target; None without one."""

    latency: list[Measurement]
    target: dict[str, Any] | None


def done(context: Context) -> bool:
    """Whether the report exists."""
    return context.finished


def run(context: Context) -> None:
    """Score in all processes; time, and write the report, in the main one."""
    with context.accounting.stage("measure"):
        scored = _scored(context)
        times = processes.on_main(partial(_times, context, scored))
    processes.on_main(partial(_write, context, scored, times))


def _scored(context: Context) -> Scored:
    model, teacher = load_compact(context.model_folder), load_teacher(context.whole)
    context.accounting.reset_peak()
    of_teacher = teacher_scores(context, teacher), teacher_classes(context, teacher)
    of_model = context.data.scored_with_error(model)
    return Scored(model, teacher, *of_model, *of_teacher, tuning_score(context.data, model))


def _write(context: Context, scored: Scored, times: Times) -> None:
    """Write the model card and the report, with what all stages have used; the report comes last."""
    report = _report(context, scored, times)
    atomic_write(context.model_folder / "README.md", card(report, scored.model))
    run_page.write(report, context.folder)
    report.save(context.folder)


def _report(context: Context, scored: Scored, times: Times) -> Report:
    recipe, task, model, teacher = context.recipe, context.data.task, scored.model, scored.teacher
    dense = base_model(context)  # whose shape the plan fits; the teacher may have another one
    plan = Plan.load(context.model_folder / "plan.json", dense)
    space = Space(dense, *recipe.target.units)
    return Report(
        recipe=recipe.to_dict(),
        **_metrics(task),
        **_scores(scored),
        **_of_data(context),
        density=dict(plan.achieved),
        structure=plan.read(space).summary(),
        parameters={"teacher": parameter_count(teacher), "model": parameter_count(model)},
        weight_bytes={"teacher": 4 * teacher.num_parameters(), "model": disk_bytes(context.model_folder)},
        bytes=_bytes_of_parts(context, scored),
        shared_output=shares_embeddings(teacher),
        unpruned=_unpruned(dense, space, plan),
        paths=paths_in(recipe.to_dict()),
        latency=[measurement.to_dict() for measurement in times.latency],
        verified=FORMAT.read(context.folder / VERIFIED),
        seconds=context.accounting.seconds(),
        **_versions(context),
        target=times.target,
        memory=context.accounting.memory(),
        baseline=task.baseline(context.data.validation_rows),
        rounds=run_rounds.reported(recipe),
        **_chosen(context),
    )


def _versions(context: Context) -> dict[str, Any]:
    """Those of this attempt, and of earlier ones where they were others."""
    versions = FORMAT.read(context.folder / VERSIONS)
    return {"earlier_versions": versions.pop(EARLIER, None), "versions": versions}


def _times(context: Context, scored: Scored) -> Times:
    """The times of the result beside its teacher, on the device where the result was scored, and that of the target.

    The teacher is not there if its scores were kept from before.
    """
    measurement = context.recipe.measurement
    with on_device([scored.teacher], scored.model.device):
        latency = grid(scored.model, scored.teacher, measurement.shapes, repeats=measurement.repeats)
    return Times(latency, _target(context, scored.model))


def _metrics(task: Task) -> dict[str, Any]:
    """The names of the main scores, and whether more is better."""
    training = task.of_training_rows().metric
    return {"metric": task.metric, "greater_is_better": task.greater_is_better, "training_metric": training}


def _of_data(context: Context) -> dict[str, Any]:
    """The rows of the data, by which they are recognised, and how they are asked."""
    task, whole = context.data.task, context.data.task_as_read
    return {
        "rows": {name: len(split) for name, split in task.splits.items()},
        "data": whole.fingerprint(),
        "scored": whole.fingerprint("validation"),
        "trained": training_fingerprint(context.data),
        "splits": task.origin.names,
        "asked": {} if task.predictor is None else task.predictor.told(task),
    }


def _scores(scored: Scored) -> dict[str, Any]:
    """The scores of the result and its teacher, by their names in the report."""
    return {
        "scores": scored.found.scores,
        "teacher_scores": scored.teacher_scores,
        "standard_error": scored.standard_error,
        "tuning": scored.tuning,
        "classes": _by_class(scored),
    }


def _by_class(scored: Scored) -> list[dict[str, Any]] | None:
    """The scores of each class of the teacher and of the result; None for a task without classes.

    A kind of entity of which the data has none is there if only one of the two predicts it.
    """
    theirs = {one.name: one for one in scored.teacher_classes or ()}
    ours = {one.name: one for one in scored.found.classes}
    rows = {name: one.rows for name, one in {**theirs, **ours}.items()}
    each = {"teacher": theirs, "model": ours}
    found = [
        {"name": name, "rows": count, **{who: _three(own[name]) if name in own else None for who, own in each.items()}}
        for name, count in rows.items()
    ]
    return found or None


def _three(score: ClassScore) -> dict[str, float]:
    return {"precision": score.precision, "recall": score.recall, "f1": score.f1}


def _bytes_of_parts(context: Context, scored: Scored) -> dict[str, dict[str, int]] | None:
    """Bytes of the parts of the teacher, in float32, and of the result as it is stored."""
    teacher, model = dense_parts(scored.teacher), stored_parts(context.model_folder, scored.model)
    return None if teacher is None or model is None else {"teacher": teacher, "model": model}


def _unpruned(dense: PreTrainedModel, space: Space, plan: Plan) -> dict[str, int]:
    """What there is of what a recipe may ask for: all units, and for a size the bytes of the unpruned model.

    With them the bytes of its layers in float32, where the teacher may have others.
    """
    size, parts = {} if plan.size is None else plan.size, dense_parts(dense)
    layers = {} if parts is None else {"layer_bytes": parts["layers"]}
    return {"units": len(space)} | layers | ({"bytes": size["unpruned_bytes"]} if "unpruned_bytes" in size else {})


def _chosen(context: Context) -> dict[str, Any]:
    """What the run has chosen itself, its scores at other densities on the way, and its baselines."""
    stages = {"teacher": teacher_stage, "goal": density, "depth": depth}
    chosen = {key: stage.reported(context) for key, stage in stages.items()}
    chosen["baselines"] = baselines.reported(context)
    chosen["vocabulary"] = vocabulary_data.reported(context.data)
    chosen["ramp"] = ramp_scores.reported(context)
    return chosen | {"length": run_length.reported(context), "outputs": output_cache.reported(context)}


def _target(context: Context, model: PreTrainedModel) -> dict[str, Any] | None:
    """The time that was asked for and predicted, and the time that the result takes; None where no time was asked.

    Speed-ups are over the student as the table is of it: before pruning, with the run's pieces and its factors.
    """
    table = read_latency_table(context.folder)
    if table is None:
        return None
    dense = base_model(context)
    plan = Plan.load(context.model_folder / "plan.json", dense)
    if plan.latency is None:
        return None
    repeats = context.recipe.measurement.repeats
    unpruned = shaped(context, dense)
    return target_reached(plan.latency, measure_again(table, model, unpruned, repeats))
