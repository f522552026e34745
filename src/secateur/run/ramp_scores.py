"""Scores while the density decreases, before recovery: of a few held-out training rows, at some densities.

The report predicts from them what the run would have scored at other densities (`report/other_densities.py`), of those
that a run with the same recipe can have. The rows are held out of the prune stage alone. `method.ramp_rows` says how
many they are; `ramp.json` has the scores. Of a run in rounds these are of the last one: the recovery that each other
round has lies between its scores and those after it.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, TrainerCallback

from secateur.budget.space import Space
from secateur.measure.evaluation import in_order, scores_with_error, standard_error
from secateur.methods.method import Method
from secateur.run.context import Context
from secateur.run.ramp_rows import RampRows
from secateur.run.recipe import Recipe
from secateur.run.records import FORMAT, RAMP
from secateur.run.run_rounds import coarse_rounds, last_round, least_share, share_after
from secateur.run.target import counted
from secateur.run.training_arguments import steps_of_run
from secateur.system import processes
from secateur.training.trainer import PruningTrainer

PASSED = (0.6, 0.4, 0.2, 0.1, 0.05)
"""Densities at which the model is scored when it has passed them, besides the one at which the ramp ends."""
NEAR = 1.1
"""Densities of `PASSED` that are not larger than this times the last one are left to the score at the end."""
POINTS, ROWS, TEACHER, REACH = "points", "rows", "teacher", "reach"


def begin(context: Context, rows: RampRows, teacher: PreTrainedModel) -> None:
    """Record what the teacher scores on the rows, if there are any. All processes must call it."""
    data = context.data
    if not rows.count or processes.on_main(partial(_record, context.folder)):
        return
    task = data.task.of_training_rows()
    scores, _ = scores_with_error(teacher, task, rows.scored, data.tokenizer)
    record = {"metric": task.metric, ROWS: rows.count, TEACHER: scores[task.metric]}
    processes.on_main(partial(FORMAT.write, context.folder / RAMP, record))


def record_reach(context: Context, space: Space) -> None:
    """Record between which densities a run with this recipe can end. All processes must call it.

    Args:
        space: of the student before it is pruned.
    """
    processes.on_main(lambda: FORMAT.merge(context.folder / RAMP, {REACH: _reach(context.recipe, space)}))


def _reach(recipe: Recipe, space: Space) -> tuple[float, float]:
    """The lowest density, and the highest: what is left by the rounds before the last one."""
    counting = Space(space.model, *space.units, budget=counted(recipe.target), round_to=space.round_to)
    rounds = coarse_rounds(recipe)
    return least_share(rounds, counting), share_after(rounds, counting)


def reported(context: Context) -> dict[str, Any] | None:
    """The scores for the report; None for a run that has none."""
    record = _record(context.folder)
    return record if record.get(POINTS) else None


def _record(folder: Path) -> dict[str, Any]:
    return FORMAT.read_if_any(folder / RAMP)


class RampScores(TrainerCallback):
    """Scores the model at the first log of the last round after the density has passed one of `PASSED`, and at the end.

    A point is `{step, density, score, standard_error}`, with the prunable density of the masks. Points of steps after
    the checkpoint from which a training resumes are dropped, and scored again when it is there.
    """

    def __init__(self, context: Context, rows: RampRows, trainer: PruningTrainer) -> None:
        self.context, self.rows, self.trainer = context, rows, trainer
        self.points: list[dict[str, Any]] = []
        last = context.recipe.target.densities or (0.0,)  # another amount to keep says nothing of the density
        self.to_pass = [density for density in PASSED if density > NEAR * last[-1]]
        self.begin = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        earlier = processes.on_main(partial(_record, self.context.folder)).get(POINTS, [])
        self.begin = last_round(self.context.recipe) * steps_of_run(self.context)
        self.points = [point for point in earlier if self.begin <= point["step"] <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.logging_steps or state.global_step < self.begin:
            return
        if self._passed_one(density := self._density):
            due = control.should_log
            self._score(state.global_step, density)
            control.should_log = due  # which the log of the score has reset

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.points or self.points[-1]["step"] < state.global_step:
            self._score(state.global_step, self._density)

    @property
    def _density(self) -> float:
        return cast(Method, self.trainer.method).log_values()["density"]

    def _passed_one(self, density: float) -> bool:
        """Whether a density of `PASSED` has been passed since the last point."""
        lowest = min((point["density"] for point in self.points), default=1.0)
        return any(density <= passed < lowest for passed in self.to_pass)

    def _score(self, step: int, density: float) -> None:
        """Add a point. All processes must call it."""
        began, data = time.monotonic(), self.context.data
        task = data.task.of_training_rows()
        with torch.random.fork_rng():  # so that the run does not depend on whether it is scored
            found = self.trainer.outputs_of(self.rows.scored)
        prediction, rows = in_order(found, self.rows.scored)
        prediction = task.read(prediction, data.tokenizer)
        score, error = task.score(prediction, rows)[task.metric], standard_error(task, prediction, rows)
        self.points.append({"step": step, "density": density, "score": score, "standard_error": error})
        processes.on_main(partial(FORMAT.merge, self.context.folder / RAMP, {POINTS: self.points}))
        self.trainer.log({f"ramp_{task.metric}": score, "ramp_runtime": round(time.monotonic() - began, 3)})
