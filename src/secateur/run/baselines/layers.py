"""Fewer layers of the teacher, whole and unpruned, which learn from it as the pruned model does.

    RUN/baselines/layers.json         how many layers are kept, and why, decided once
    RUN/baselines/NAME/model          the result: a compact folder, stored in the types of the run's model
    RUN/baselines/NAME/log.jsonl      the log of its training

They are trained with the run's terms, rows, rate and number of steps, those of pruning and recovery together, in which
nothing is pruned on the way. Their number is the one at which the model is nearest to the pruned one: by what the
run's target times, or by its latency, each of which is linear in the number of layers; or by the parameters of the
layers where no latency is measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.measure.bench import measure
from secateur.measure.latency_sweep import measure_again
from secateur.measure.measurement import Measurement
from secateur.measure.model_size import disk_bytes, parameter_count
from secateur.methods.rounds import evenly_spread, stacks_of
from secateur.run.baselines import register
from secateur.run.baselines.baseline import FOLDER, FORMAT, Baseline, LeftOut, Row
from secateur.run.context import Context
from secateur.run.distillation import CutModel
from secateur.run.models import base_model, load_compact, load_teacher, new_student, prepared
from secateur.run.run_rounds import LAYER
from secateur.run.stage_trainer import distilling_trainer, train
from secateur.run.stages.outputs import outputs_of
from secateur.run.stages.recover import save_result
from secateur.run.target import read_latency_table
from secateur.run.training_arguments import learning_rate_of_run, rounded, steps_of_run
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import embedding_rank
from secateur.system import processes
from secateur.system.main_models import held_by_main
from secateur.training.nonfinite import Diverged

COUNT, STAGE = "layers.json", "train"
Clock = Callable[[PreTrainedModel, PreTrainedModel], Measurement]
"""Times a model in turn with the dense one."""


class FewerLayers(Baseline):
    """Some layers of the teacher, distilled with the terms and the steps of the run."""

    trains = True

    @staticmethod
    def kept(count: int, total: int) -> list[int]:
        """The numbers of the layers that are kept, `count` of `total`, rising."""
        raise NotImplementedError

    @staticmethod
    def described(count: int, total: int) -> str:
        """What is kept, in words."""
        raise NotImplementedError

    def make(self, context: Context, folder: Path) -> list[Row]:
        teacher = load_teacher(context)
        student = new_student(context, teacher)
        layers = LayerCuts(student)
        count = processes.on_main(partial(decided_count, context, layers))
        own = replace(context, folder=folder, shared=context.shared or context.folder, branches=())
        plan = processes.where_whole(partial(layers.plan, count, self))
        if not own.model_folder.is_dir():
            try:
                _train(own, teacher, layers, plan)
            except Diverged as diverged:
                raise LeftOut(f"its training diverged: {diverged}") from diverged
        processes.on_main(partial(shutil.rmtree, folder / STAGE, ignore_errors=True))
        model = load_compact(own.model_folder)
        scored, error = context.data.scored_with_error(model)
        row = Row(
            name=self.name,
            what=f"{self.described(count, layers.total)}, trained alike",
            score=scored.scores[context.data.task.metric],
            standard_error=error,
            parameters=parameter_count(model),
            bytes=disk_bytes(own.model_folder),
            place=own.model_folder.relative_to(context.folder).as_posix(),
            density=plan.achieved["prunable"],
            trained=True,
        )
        return [row]


@register("first-layers")
class FirstLayers(FewerLayers):
    """The first layers of the teacher, distilled with the terms and the steps of the run."""

    @staticmethod
    def kept(count: int, total: int) -> list[int]:
        return list(range(count))

    @staticmethod
    def described(count: int, total: int) -> str:
        return f"the first {count} of {total} layers" if count > 1 else f"the first of {total} layers"


@register("spread-layers")
class SpreadLayers(FewerLayers):
    """Evenly spread layers of the teacher, distilled with the terms and the steps of the run."""

    @staticmethod
    def kept(count: int, total: int) -> list[int]:
        return evenly_spread(count, total)

    @staticmethod
    def described(count: int, total: int) -> str:
        return f"{count} of {total} layers, evenly spread" if count > 1 else f"the middle one of {total} layers"


@dataclass(frozen=True)
class LayerCuts:
    """The student as the run begins with it, and its cuts to whole layers."""

    student: PreTrainedModel

    @property
    def space(self) -> Space:
        """Its layers as units."""
        return Space(self.student, LAYER)

    @property
    def total(self) -> int:
        """The number of its layers; of the deeper stack, if it has two."""
        return max(len(units) for units in stacks_of(self.space, LAYER))

    def plan(self, count: int, rule: type[FewerLayers] | FewerLayers) -> Plan:
        """The plan that keeps `count` layers by a rule, and of a stack of fewer layers the same part of them."""
        space, total = self.space, self.total
        masks = torch.zeros(len(space))
        for units in stacks_of(space, LAYER):
            own = max(1, round(count * len(units) / total))
            masks[units.cpu()[rule.kept(own, len(units))]] = 1.0
        return Plan.of(space, masks, embedding_rank=embedding_rank(space))


def decided_count(context: Context, layers: LayerCuts) -> int:
    """The number of layers to keep, which is recorded. Only the main process may call it.

    Raises:
        LeftOut: the model has one layer.
    """
    if layers.total == 1:
        raise LeftOut("the model has one layer: there are no fewer to keep")
    path = context.folder / FOLDER / COUNT
    record = FORMAT.read_if_any(path)
    if not record:
        record = _nearest(context, layers)
        FORMAT.merge(path, record)
    return int(record["layers"])


def _nearest(context: Context, layers: LayerCuts) -> dict[str, Any]:
    """The number of layers at which a model is nearest to the pruned one, and what they are compared by."""
    clock = _clock(context)
    if clock is not None:
        timed, by = clock
        models = cut(layers.student, layers.plan(1, FirstLayers)), load(context.model_folder)
        one, pruned = (_part_of_time(timed(model, layers.student)) for model in models)
        if one < 1.0:
            return {"layers": nearest_count(one, pruned, layers.total), "of": layers.total, "by": by}
    kept = Plan.load(context.model_folder / "plan.json", base_model(context)).achieved["layers"]
    count = min(max(1, round(kept * layers.total)), layers.total - 1)
    return {"layers": count, "of": layers.total, "by": "the parameters of the layers"}


def _clock(context: Context) -> tuple[Clock, str] | None:
    """What times a model in turn with the dense one, and what is timed, in words; None where a run times nothing.

    For a run to a latency it is what its target times, a forward or a generation.
    """
    measurement = context.recipe.measurement
    table = read_latency_table(context.folder)
    if table is not None:
        return partial(measure_again, table, repeats=measurement.repeats), "what the target times"
    if not measurement.shapes:
        return None
    batch, tokens = max(measurement.shapes, key=lambda shape: shape[0] * shape[1])
    timed = partial(measure, batch=batch, tokens=tokens, repeats=measurement.repeats)
    return timed, f"the latency at {batch} x {tokens}"


def _part_of_time(measured: Measurement) -> float:
    """The latency of a model over that of the dense one."""
    assert measured.speed_up is not None
    return 1.0 / measured.speed_up


def nearest_count(one: float, pruned: float, total: int) -> int:
    """The number of layers, below `total`, whose latency is nearest to that of the pruned model.

    Args:
        one: latency of the model with one layer over that of the whole model, which has `total`; below 1.
        pruned: that of the pruned model.
    """
    of_a_layer = (1.0 - one) / (total - 1)
    return min(max(1, round(1 + (pruned - one) / of_a_layer)), total - 1)


def _train(context: Context, teacher: PreTrainedModel, layers: LayerCuts, plan: Plan) -> None:
    """Cut the layers out of the student, train them for all steps of the run, and save them as its model is saved.

    Args:
        context: of the baseline, whose folder is its own.
    """
    recipe = context.recipe
    small = held_by_main(partial(_cut, context, layers.student, plan))
    model = prepared(recipe, small, base_model(context))
    trainer = distilling_trainer(
        context,
        model,
        STAGE,
        rounded(steps_of_run(context)),
        teacher=outputs_of(context, teacher),
        objective=context.distillation.new_terms(CutModel(model, teacher, plan, layers.space)),
        learning_rate=learning_rate_of_run(context),
        average=recipe.training.average,
    )
    train(context, trainer, STAGE)
    processes.on_main(partial(save_result, context, model))


def _cut(context: Context, student: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    vocabulary = context.data.vocabulary
    return cut(student, plan if vocabulary is None else plan.with_vocabulary(student, vocabulary))
