"""One trial of a sweep: a run in a folder of its own, which is stopped if it scores too little on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from secateur.report.report import Report
from secateur.report.size_text import leading_time
from secateur.run import pipeline
from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.run.run_data import evaluation_task
from secateur.run.sweep.objectives import OBJECTIVES, tuned_score, values_of
from secateur.run.sweep.study import Stopped
from secateur.run.target import keep_shared, read_latency_table
from secateur.run.vocabulary_data import data_of
from secateur.system.errors import UserError

RECOVERY = "recover"
"""The stage whose evaluations are compared. While a model is pruned its score falls, at first from that of the whole
model, so that the scores of that stage do not tell which trial ends better."""


class ScoreWatch(TrainerCallback):
    """Reports the evaluations of the recovery, and stops the run where that is wanted.

    Args:
        metric: the score, as the task of the evaluations calls it.
        report: takes a percentage of the recovery and the score there, and says whether to stop.
    """

    def __init__(self, metric: str, report: Callable[[int, float], bool]) -> None:
        self.key, self.report = f"eval_{metric}", report

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if Path(args.output_dir).name != RECOVERY or metrics is None or self.key not in metrics:
            return
        stop = self.report(round(100 * state.global_step / state.max_steps), metrics[self.key])
        if stop and state.global_step < state.max_steps:
            raise Stopped


def run_trial(
    recipe: Recipe,
    folder: Path,
    objectives: Sequence[str],
    report: Callable[[int, float], bool],
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[list[float], dict[str, Any]]:
    """Run a recipe; returns the values of the objectives, and the numbers to keep. The same call continues a run.

    Args:
        folder: of the run; a trained teacher and the teacher's outputs are beside it.

    Raises:
        Stopped: `report` asked for it.
        UserError: anything that the user can fix.
    """
    data = data_of(recipe)
    watch = ScoreWatch(evaluation_task(data).metric, report)
    context = Context(recipe, folder, data, (watch, *callbacks), shared=folder.parent)
    try:
        done = pipeline.run_context(context)
    except Stopped:
        pipeline.tidy(context)
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(f"the memory of the device does not suffice ({error}): give a smaller batch") from error
    finally:
        if (table := read_latency_table(folder)) is not None:
            keep_shared(table, folder.parent, recipe)
    return values_of(done, objectives), _numbers(done)


def _numbers(report: Report) -> dict[str, Any]:
    """What the page of a sweep shows of a run."""
    time = leading_time(report)
    measured = {name: one.of(report) for name, one in OBJECTIVES.items() if name != "score"}
    return {
        "score": report.scores[report.metric],
        "standard_error": report.standard_error,
        "teacher": report.teacher_scores[report.metric],
        "tuning": tuned_score(report),
        "density": report.density["prunable"],
        "seconds": sum(report.seconds.values()),
        **measured,
        **({} if time is None else {"shape": time.at}),
    }
