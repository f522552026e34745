"""A worker of a sweep: it runs trials of the study that it shares with others, and writes the page."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.report.names import shown
from secateur.report.sweep import FAILED, FINISHED, RUNNING, STOPPED, SweepResult, SweepTrial
from secateur.report.sweep_text import value_text
from secateur.run import begun_with
from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.run.stages import teacher
from secateur.run.sweep import folder as files
from secateur.run.sweep.block import Sweep, described
from secateur.run.sweep.check import check, with_default_rows
from secateur.run.sweep.objectives import OBJECTIVES
from secateur.run.sweep.study import Asked, SweepStudy, sqlite_url
from secateur.run.sweep.trial import run_trial
from secateur.run.target import keep_shared
from secateur.system import processes
from secateur.system.errors import UserError

TRIALS = 20
"""Trials of a sweep that is asked for no number of them, unless it is a grid, which has them all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """A worker that has joined a sweep.

    Attributes:
        context: of the first combination, whose data all trials share.
        total: the number of trials of all workers.
    """

    sweep: Sweep
    folder: Path
    study: SweepStudy
    context: Context
    total: int

    @classmethod
    def joined(
        cls, sweep: Sweep, folder: Path, trials: int | None, storage: str | None = None, name: str | None = None
    ) -> Worker:
        """Check everything, claim the folder and open the study; a teacher that is missing is trained, once.

        Args:
            trials: the number of trials of all workers, of a grid at most all combinations; None for all combinations
                of a grid, and `TRIALS` of another sampler.
            storage: the URL of a database; by default an SQLite file in the folder.
            name: of the study; by default that of the folder.

        Raises:
            UserError: anything that the user can fix; nothing has been started.
        """
        if processes.count() > 1:
            raise UserError("a trial of a sweep runs in one process: start `secateur sweep` without a launcher")
        sweep = with_default_rows(sweep)
        files.check_claim(folder, sweep)
        context, table = check(sweep, folder / files.TRIALS)
        less = list(_directions(sweep, context).values())
        all_trials = replace(context, folder=folder / files.TRIALS)
        begun_with.check(all_trials)
        with files.locked(folder):
            files.claim(folder, sweep)
            begun_with.record(all_trials)
            url, name = storage or sqlite_url(folder / files.STUDY), name or folder.resolve().name
            study = SweepStudy(url, name, sweep, less, begun_with.fingerprints(all_trials))
            if table is not None:
                keep_shared(table, all_trials.folder, context.recipe)
            _prepare_teacher(all_trials)
        return cls(sweep, folder, study, context, _total(sweep, trials))

    def work(self) -> SweepResult:
        """Run trials until there are as many as asked for; then write the page.

        Raises:
            UserError: three trials in a row have failed here.
        """
        self.study.work(self._run, self.total, self._after, _idle)
        result = self.result()
        with files.locked(self.folder):
            files.write_page(self.folder, result)
        if not any(trial.state == RUNNING for trial in result.trials):
            shutil.rmtree(self.context.cache_folder, ignore_errors=True)
        return result

    def _run(self, asked: Asked) -> tuple[Sequence[float], Mapping[str, Any]]:
        log.info("trial %d: %s", asked.number, described(asked.point))
        folder = files.trial_folder(self.folder, asked.number)
        return run_trial(self.sweep.recipe(asked.point), folder, self.sweep.block.objectives, asked.report)

    def _after(self, number: int) -> None:
        """Say what became of a trial, and write the page, unless another worker is writing it."""
        result = self.result()
        trial = next((one for one in result.trials if one.number == number), None)
        if trial is not None:
            done = sum(map(result.count, (FINISHED, STOPPED, FAILED)))
            log.info("trial %d: %s (%d of %d)", number, outcome(result, trial), done, self.total)
        with files.locked(self.folder, wait=False) as held:
            if held:
                files.write_page(self.folder, result)

    def result(self) -> SweepResult:
        """The trials so far."""
        recipe, task, trials = self.context.recipe, self.context.data.task, tuple(self.study.trials())
        rows = recipe.data.tuning_rows
        scored = f"{len(task.splits['validation']):,} {task.origin.rows}"
        return SweepResult(
            name=self.folder.resolve().name,
            objectives=_directions(self.sweep, self.context),
            metric=task.metric,
            subject=f"{shown(recipe.model)} on {shown(recipe.data.source)}",
            judged=f"{rows:,} training rows held out of all training" if rows else scored,
            scored=scored,
            asked=self.total,
            sampler=self.sweep.block.sampler,
            combinations=_combinations(self.sweep),
            trials=trials,
            shape=next((str(trial.result["shape"]) for trial in trials if "shape" in trial.result), _shape(recipe)),
            teacher=next((trial.result["teacher"] for trial in trials if "teacher" in trial.result), None),
            importance=self.study.importance(),
        )


def _shape(recipe: Recipe) -> str:
    """The largest of `measurement.shapes`, which trials that an earlier version has run are of."""
    shapes = recipe.measurement.shapes
    batch, tokens = max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))
    return f"{batch} x {tokens}" if shapes else ""


def _total(sweep: Sweep, trials: int | None) -> int:
    """The number of trials of all workers."""
    if (all_of_grid := _combinations(sweep)) is None:
        return TRIALS if trials is None else trials
    return all_of_grid if trials is None else min(trials, all_of_grid)


def _combinations(sweep: Sweep) -> int | None:
    """The number of all combinations of a grid; None for another sampler."""
    return sweep.size if sweep.block.sampler == "grid" else None


def outcome(result: SweepResult, trial: SweepTrial) -> str:
    """What became of a trial, in a line."""
    if trial.values is None:
        return f"{trial.state}, {trial.why}" if trial.why else trial.state
    named = zip(result.objectives, trial.values, strict=True)
    values = ", ".join(f"{name} {value_text(name, value)}" for name, value in named)
    return values if trial.same_as is None else f"{values}, as trial {trial.same_as}, which has the same values"


def _idle(running: int) -> None:
    log.info("no trial is left to begin: waiting for other workers, which run %d", running)


def _directions(sweep: Sweep, context: Context) -> dict[str, bool]:
    """Objective -> whether less is better."""
    of_score = not context.data.task.greater_is_better
    known = {name: OBJECTIVES[name].less for name in sweep.block.objectives}
    return {name: of_score if less is None else less for name, less in known.items()}


def _prepare_teacher(context: Context) -> None:
    """Train the teacher that all trials share, if there is none.

    Args:
        context: in the folder of all trials.
    """
    if teacher.done(context):
        return
    log.info("training the teacher that all trials share")
    teacher.run(context)
    for leftover in ("teacher-training", "teacher-trial"):
        shutil.rmtree(context.folder / leftover, ignore_errors=True)
