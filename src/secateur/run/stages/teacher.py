"""Stage 1: the model itself is fine-tuned to be the teacher, unless it is fine-tuned already or a teacher is named.

The learning rate and the number of steps, where the recipe leaves them open, are chosen by short trainings on the
training rows without those that are held out and scored (`run/teacher_search.py`). Each is recorded when it ends, so
that an interrupted run does not repeat it. A teacher that is no better than a constant prediction does not teach: the
run ends, and goes on when it is repeated with another training of the teacher, or with `check_teacher: false`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from secateur.measure.evaluation import scores_with_error
from secateur.run.accounting import Stopwatch
from secateur.run.context import Context
from secateur.run.models import teacher_name, unchecked_teacher, untrained_teacher
from secateur.run.records import TEACHER
from secateur.run.run_data import Rows
from secateur.run.stage_trainer import recorded, stage_trainer, train
from secateur.run.teacher_check import check_trained
from secateur.run.teacher_search import PARTS, USUAL_LENGTH, Setting, TeacherSearch, usual_trainings
from secateur.run.training_arguments import first_teacher_rate, steps_of_teacher
from secateur.run.trial_records import ERROR, NONE, SCORE, TRIALS, TrialRecord, short
from secateur.surgery.checkpoint import save
from secateur.system import process_memory, processes
from secateur.training.nonfinite import Diverged
from secateur.training.objectives import Labels
from secateur.training.trainer import PruningTrainer

log = logging.getLogger(__name__)

TRAINING, TRIAL = "teacher-training", "teacher-trial"
"""The folders of the training and of the short ones."""
RECORD = TrialRecord(TEACHER)
"""In the folder that has the teacher."""
STEPS = "steps"
"""The key of the steps of a trial, and of the teacher."""
LONGEST_TRIAL = 8
"""The longest trial is about this part of all the steps that a search may take."""
PASSES = 3
"""Passes over the rows in a trial below which a longer one is expected to gain."""


def done(context: Context) -> bool:
    """Whether there is a teacher."""
    return teacher_name(context) is not None or context.teacher_folder.is_dir()


def run(context: Context) -> None:
    """Fine-tune the model with its whole vocabulary, and save it as the teacher. All processes must call it.

    Raises:
        NothingToKeep: it is no better than a constant prediction; it is kept in `Context.unchecked_teacher`.
    """
    context = context.whole
    with context.accounting.stage("teacher") as stopwatch:
        setting = chosen(context, stopwatch)
    process_memory.release()
    trained = processes.on_main(partial(_is_trained, context, setting))
    teacher = unchecked_teacher(context) if trained else _trained(context, setting)
    check_trained(context, teacher)
    processes.on_main(partial(context.unchecked_teacher.rename, context.teacher_folder))


def _is_trained(context: Context, setting: Setting) -> bool:
    """Whether an earlier attempt has trained by a setting, which is recorded; what one of another setting left goes."""
    folder, wanted = _folder(context), setting.to_dict()
    if not RECORD.record(folder).items() >= wanted.items():
        for leftover in (context.unchecked_teacher, context.folder / TRAINING):
            shutil.rmtree(leftover, ignore_errors=True)
        RECORD.write(folder, wanted)
    return context.unchecked_teacher.is_dir()


def _trained(context: Context, setting: Setting) -> PreTrainedModel:
    """The model after its training by a setting, which is saved."""
    model = new_model(context)
    trainer = _trainer(context, model, TRAINING, setting, context.data.train_rows)
    train(context, trainer, "teacher")
    tokenizer = context.data.tokenizer
    processes.on_main(partial(save, model, context.unchecked_teacher, tokenizer=tokenizer, replace=True))
    return model


def reported(context: Context) -> dict[str, Any] | None:
    """How the teacher was trained, with the trials; None for one that was not trained here."""
    return RECORD.record(_folder(context)) or None


def new_model(context: Context) -> PreTrainedModel:
    """The model with a new head, the same one each time."""
    set_seed(context.recipe.seed)
    return untrained_teacher(context)


def chosen(context: Context, stopwatch: Stopwatch) -> Setting:
    """The setting of the training: that of the recipe, or that of a search.

    Args:
        stopwatch: to which the trials count.
    """
    recipe, first = context.recipe.training, first_setting(context)
    steps, open_rate = steps_of_teacher(context), recipe.teacher_learning_rate is None
    if not searches(context):
        return replace(first, steps=steps or max(1, recipe.teacher_steps // 2))
    search = TeacherSearch(
        first, partial(_score, context, stopwatch), recipe.teacher_steps, context.data.task.greater_is_better
    )
    if open_rate:
        search.choose_rate()
    return replace(search.best, steps=steps or search.choose_length(open_rate))


def searches(context: Context) -> bool:
    """Whether trials choose what the recipe leaves open, for which there must be rows to hold out."""
    is_open = context.recipe.training.teacher_learning_rate is None or steps_of_teacher(context) is None
    return is_open and context.data.trial_count > 0


def first_setting(context: Context) -> Setting:
    """The setting with which a search begins."""
    most = context.recipe.training.teacher_steps
    return Setting(first_teacher_rate(context), min(steps_of_teacher(context) or most, max(1, most // PARTS)))


def expected(context: Context) -> list[int]:
    """The optimizer steps of the trainings that are left, the last one that of the teacher, if all goes as usual.

    Longer trainings are taken to gain up to `USUAL_LENGTH` first ones, or, of rows of which the longest trial has fewer
    than `PASSES`, to the end.
    """
    steps, record = steps_of_teacher(context), RECORD.record(_folder(context))
    if STEPS in record:
        return [record[STEPS]]
    recipe, first = context.recipe.training, first_setting(context)
    if not searches(context):
        return [steps or max(1, recipe.teacher_steps // 2)]
    rows = recipe.batch_size * recipe.accumulate * recipe.teacher_steps // LONGEST_TRIAL
    few = rows < PASSES * len(context.data.train_rows)
    longest = recipe.teacher_steps if few else USUAL_LENGTH * first.steps
    open_rate = recipe.teacher_learning_rate is None
    trainings = usual_trainings(first, recipe.teacher_steps, longest, steps, open_rate)
    return trainings[min(RECORD.tried(_folder(context)), len(trainings) - 1) :]


def most_expected(context: Context) -> list[int]:
    """As `expected`, where as many trials as possible take as many steps as they may."""
    usual, steps = expected(context), steps_of_teacher(context)
    if not searches(context) or STEPS in (record := RECORD.record(_folder(context))):
        return usual
    most, first = context.recipe.training.teacher_steps, first_setting(context).steps
    taken = sum(trial[STEPS] for trial in record.get(TRIALS, []))
    trials = max(0, most // 2 - taken)
    last = most - taken - trials if steps is None else steps
    return [*[first] * (trials // first), max(last + trials % first, usual[-1])]


def _score(context: Context, stopwatch: Stopwatch, setting: Setting) -> tuple[float | None, float]:
    """The score of a model that is trained by a setting, on the held-out rows, and the standard error of that.

    None if its training diverges. All processes must call it.
    """
    record: dict[str, Any] | None = processes.on_main(partial(RECORD.earlier, _folder(context), setting.to_dict()))
    if record is None:
        record = setting.to_dict() | _tried(context, stopwatch, setting)
        processes.on_main(partial(RECORD.add, _folder(context), record, context.data.trial_count))
        stopwatch.record()
    return record[SCORE], record[ERROR] or 0.0


def _tried(context: Context, stopwatch: Stopwatch, setting: Setting) -> dict[str, Any]:
    """The score of a trial and its standard error, by the keys of a record."""
    process_memory.release()
    data, model = context.data, new_model(context)
    trial = replace(recorded(context, stopwatch), recipe=short(context.recipe, setting.steps))
    told = f"teacher trial: {setting.steps} steps at a learning rate of {setting.learning_rate:g}"
    try:
        _trainer(trial, model, TRIAL, setting, data.without_held_out(data.train_rows)).train()
    except Diverged as diverged:
        log.warning("%s diverged (%s)", told, diverged)
        return NONE
    scores, error = scores_with_error(model, data.task, data.held_out_rows, data.tokenizer)
    score = scores[data.task.metric]
    log.info("%s: %s %.4f", told, data.task.metric, score)
    return {SCORE: score, ERROR: error}


def _trainer(context: Context, model: PreTrainedModel, stage: str, setting: Setting, rows: Rows) -> PruningTrainer:
    return stage_trainer(
        context,
        model,
        stage,
        setting.steps,
        rows=rows,
        objective=[Labels(smoothing=context.recipe.distillation.label_smoothing)],
        learning_rate=setting.learning_rate,
    )


def _folder(context: Context) -> Path:
    return context.teacher_folder.parent
