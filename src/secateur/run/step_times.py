"""The seconds of single steps of a run, and their memory, measured before its first stage.

The student is trained for a few steps before it is pruned, and cut to the target at random, in a temporary folder: the
cost of a step depends on the shapes of the weights and of the batches, hardly on which units are kept. The batches are
those of the sampler at the middles of equal parts of its batches by length; the longest comes first, to reserve memory.
The random state, the folder and the data of the run stay as they are.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.run.context import Context
from secateur.run.costs import Costs, Speed
from secateur.run.distillation import CutModel
from secateur.run.models import base_model, named_teacher, new_student, prepared, shaped, teacher_name
from secateur.run.recipe import Recipe
from secateur.run.run_data import Rows
from secateur.run.run_rounds import changed, is_open, total_layers, with_layers
from secateur.run.stage_trainer import distilling_trainer, stage_trainer
from secateur.run.stages.cut import final_plan
from secateur.run.stages.outputs import cached_outputs
from secateur.run.stages.prune import pruning_trainer
from secateur.run.step_memory import StepMemory
from secateur.run.step_sample import PARTS, Sample, passes
from secateur.run.target import layers_to_try, new_method
from secateur.run.training_arguments import learning_rate_of_run, uses_bf16
from secateur.run.trial_records import short
from secateur.structure.token_types import without_unread_types
from secateur.surgery.cut import cut
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.rows import length_of
from secateur.training.objectives import Labels
from secateur.training.step import INDEX
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.trainer import PruningTrainer

LIMIT = 2.0
"""Seconds after which no further step of the same model is timed."""
SLIVER = 1e-6
"""The part of the run in which steps before pruning are timed: the schedule has not begun."""


def measured(context: Context, space: Space, table: LatencyTable | None) -> Costs | None:
    """The costs of a run that has been checked; None with several processes, which would have to measure together.

    Args:
        space: of the model before pruning.
        table: the latency table, if the target is a time.
    """
    if processes.count() > 1:
        return None
    with _undisturbed() as folder:
        return Measurement.of(context, table, folder).costs(space)


def trial_recipes(context: Context, space: Space) -> dict[int, Recipe]:
    """Number of layers -> the recipe with it, of the numbers between which a run chooses, the smallest first."""
    total = total_layers(space)
    return {layers: with_layers(context.recipe, layers, total) for layers in layers_to_try(context.recipes, space)}


@contextmanager
def _undisturbed() -> Iterator[Path]:
    """A temporary folder; afterwards the random generators are as they were before."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


@dataclass(frozen=True)
class Target:
    """What is measured of the student at the target.

    Attributes:
        cut: seconds of the cut.
        new_shape: as of `Costs`.
    """

    speed: Speed
    cut: float
    new_shape: float


@dataclass(frozen=True)
class Measurement:
    """The measurements of a run.

    Attributes:
        context: of the run, with a temporary folder and without evaluations, checkpoints and callbacks.
        model: the teacher; before it is trained, the model that it starts from.
        memory: of all steps that were taken.
    """

    context: Context
    table: LatencyTable | None
    model: PreTrainedModel
    memory: StepMemory = field(default_factory=StepMemory)

    @classmethod
    def of(cls, context: Context, table: LatencyTable | None, folder: Path) -> Measurement:
        steps = round((1 + PARTS * passes()) / SLIVER)
        recipe = changed(short(context.recipe, steps), training={"report_to": ()})
        alone = replace(context, recipe=recipe, folder=folder, shared=None, callbacks=())
        return cls(alone, table, (named_teacher(context) or base_model(context)).eval())

    def costs(self, space: Space) -> Costs:
        context = self.context
        recipes = [*trial_recipes(context, space).values()] if is_open(context.recipe) else [context.recipe]
        step, shrinks = self._dense_step(recipes[-1])
        targets = [self._target(recipe) for recipe in recipes]
        return Costs(
            dense=self._speed(step, self.model),
            targets={recipe.target.layers: one.speed for recipe, one in zip(recipes, targets, strict=True)},
            shrinks=shrinks,
            cut=targets[0].cut,
            new_shape=targets[0].new_shape,
            lengths=self.sample.lengths,
            teacher_step=self._teacher_step() if teacher_name(context) is None else None,
            weights=self._base.num_parameters(),
            memory=self.memory.highest,
        )

    @cached_property
    def _base(self) -> PreTrainedModel:
        return base_model(self.context)

    def _dense(self) -> PreTrainedModel:
        """The model before pruning, a new copy."""
        return copy.deepcopy(self._base)

    @cached_property
    def sample(self) -> Sample:
        """Steps of the student."""
        return self._sample_of(self.context.data.distillation_rows)

    def _sample_of(self, rows: Rows) -> Sample:
        training = self.context.recipe.training
        return Sample.of(rows, training.batch_size, training.accumulate, self.context.recipe.seed)

    @cached_property
    def outputs(self) -> PreTrainedModel | CachedTeacher:
        """Those of the teacher for the rows of the sample, cached as the run will cache them, if it can."""
        if not self.context.recipe.distillation.cache:
            return self.model
        try:
            return cached_outputs(self.context, self.model, self.sample.rows)
        except UserError:  # the temporary folder is full, or what holds for the rows of the run
            return self.model

    def _teacher_step(self) -> float:
        sample, recipe = self._sample_of(self.context.data.train_rows), self.context.recipe
        trainer = stage_trainer(
            self.context,
            self._dense(),
            "teacher",
            len(sample.tokens),
            rows=sample.rows,
            objective=[Labels(smoothing=recipe.distillation.label_smoothing)],
            learning_rate=learning_rate_of_run(self.context),
        )
        return sample.seconds(self._timed(trainer, sample))

    def _dense_step(self, recipe: Recipe) -> tuple[float, bool]:
        """The seconds of a step before pruning, and whether the model shrinks later."""
        context = replace(self.context, recipe=recipe)
        student = new_student(context, self.model)
        method = new_method(recipe, student, self.table)
        trainer = pruning_trainer(context, student, self.outputs, method, "dense", end=SLIVER, rows=self.sample.rows)
        return self.sample.seconds(self._timed(trainer, self.sample)), trainer.shrinking is not None

    def _target(self, recipe: Recipe) -> Target:
        context = replace(self.context, recipe=recipe)
        began = _now()
        cut_model = self._cut_at_random(context)
        cut_seconds = _now() - began
        trainer = distilling_trainer(
            context,
            cut_model.model,
            "target",
            len(self.sample.tokens),
            teacher=self.outputs,
            objective=context.distillation.new_terms(cut_model),
            rows=self.sample.rows,
            learning_rate=learning_rate_of_run(self.context),
        )
        timed = self._timed(trainer, self.sample)
        speed = self._speed(self.sample.seconds(timed), cut_model.model)
        return Target(speed, cut_seconds, self.sample.new_shape(timed))

    def _cut_at_random(self, context: Context) -> CutModel:
        student = shaped(context, self._dense())
        at_random = changed(context.recipe, method={"name": "random", "options": {"seed": 0}})
        method = new_method(at_random, student, self.table)
        method.advance(1.0)
        plan = final_plan(context, method)
        small = prepared(context.recipe, cut(student, plan), self._base)
        return CutModel(small, self.model, plan, Space(self._base, *context.recipe.target.units))

    def _timed(self, trainer: PruningTrainer, sample: Sample) -> list[float]:
        """The seconds of each step of the sample, as far as the time allows."""
        clock = StepClock()
        trainer.add_callback(clock)
        trainer.args.train_sampling_strategy = "sequential"
        trainer.args.logging_steps = len(sample.tokens) + 1
        with self.memory.of(trainer, min(1 + PARTS, sample.lengths), sample.lengths):
            trainer.train()
        return clock.seconds

    def _speed(self, step: float, model: PreTrainedModel) -> Speed:
        trained = uses_bf16(self.context.recipe)
        scored = self._token_seconds(model, bf16=False)
        return Speed(step, self._token_seconds(model, bf16=True) if trained else scored, scored)

    def _token_seconds(self, model: PreTrainedModel, bf16: bool) -> float:
        """The fastest forward of each timed batch, for a token of it."""
        began, seconds, tokens = time.perf_counter(), 0.0, 0
        for batch in self._batches():
            times = []
            for _ in range(passes()):
                times.append(_forward_seconds(model, batch, bf16))
            seconds, tokens = seconds + min(times), tokens + _tokens_in(batch)
            if time.perf_counter() - began > LIMIT:
                break
        return seconds / tokens

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """The batches of the sample, the longest left out, without the labels that only a loss needs."""
        data, size = self.context.data, self.context.recipe.training.batch_size
        left_out = {INDEX} if data.task.generates else {INDEX, *data.task.label_names}
        step = len(self.sample.rows) // len(self.sample.tokens)
        collate = data.collator()
        for place in range(PARTS):
            rows = self.sample.rows[(1 + place) * step :][: min(step, size)]
            yield dict(collate([{name: row[name] for name in row if name not in left_out} for row in rows]))


def _forward_seconds(model: PreTrainedModel, batch: dict[str, Tensor], bf16: bool) -> float:
    read = without_unread_types(batch, model)
    inputs: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in read.items()}
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
    with evaluating([model]), torch.no_grad(), autocast:
        began = _now()
        model(**inputs, output_hidden_states=True)
        return _now() - began


def _tokens_in(batch: dict[str, Tensor]) -> int:
    """The tokens of a batch, with padding, in the units of `tokens_of`."""
    return batch["input_ids"].numel() if "input_ids" in batch else len(next(iter(batch.values())))


def tokens_of(rows: Rows) -> int:
    """The tokens of rows, without padding; a target is about as long as its text, and not counted. Or the images."""
    return sum(map(length_of, rows))


class StepClock(TrainerCallback):
    """Takes the seconds of every optimizer step, and ends the training after `LIMIT` seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.last = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = _now()
        self.seconds.append(now - self.last)
        self.last = now
        if now - self.began > LIMIT:
            control.should_training_stop = True


def _now() -> float:
    """The time when the device has done what it was asked to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
