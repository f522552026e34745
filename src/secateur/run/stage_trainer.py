"""What the training of all stages shares: the trainer of a stage, its evaluations, and resuming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import EvalPrediction, PreTrainedModel, PrinterCallback
from transformers.integrations import TensorBoardCallback

from secateur.measure.evaluation import in_order
from secateur.run.accounting import Stopwatch
from secateur.run.callbacks import LogFile, Recorded, RecordedAround
from secateur.run.context import Context
from secateur.run.run_data import Rows, RunData, evaluation_task
from secateur.run.training_arguments import training_arguments
from secateur.system import processes
from secateur.training.checkpoints import last_checkpoint
from secateur.training.objectives import Term
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.trainer import PruningTrainer


def distilling_trainer(
    context: Context,
    model: PreTrainedModel,
    stage: str,
    steps: int,
    *,
    teacher: PreTrainedModel | CachedTeacher,
    objective: Sequence[Term],
    rows: Rows | None = None,
    **options: Any,
) -> PruningTrainer:
    """The trainer of a stage that trains a student with a teacher.

    Args:
        rows: by default the training rows for distillation.
        options: as for `stage_trainer`.
    """
    return stage_trainer(
        context,
        model,
        stage,
        steps,
        rows=context.data.distillation_rows if rows is None else rows,
        teacher=teacher,
        objective=objective,
        select=evaluation_task(context.data).metric if context.recipe.training.select else None,
        **options,
    )


def stage_trainer(
    context: Context,
    model: PreTrainedModel,
    stage: str,
    steps: int,
    *,
    rows: Rows,
    learning_rate: float,
    constant: bool = False,
    seed: int | None = None,
    **options: Any,
) -> PruningTrainer:
    """The trainer of a stage in the folder `RUN/stage`.

    Args:
        steps, learning_rate, constant, seed: as for `training_arguments`.
        rows: to train on.
        options: of `PruningTrainer`.
    """
    data = context.data
    trainer = PruningTrainer(
        model,
        args=training_arguments(context, stage, steps, learning_rate=learning_rate, constant=constant, seed=seed),
        generate=data.task.generate if data.task.generates else None,
        train_dataset=rows,
        eval_dataset=data.eval_rows,
        compute_metrics=partial(_evaluated, data),
        preprocess_logits_for_metrics=data.task.condensed,
        data_collator=data.collator(),
        processing_class=data.tokenizer,
        cuda_graphs=context.recipe.training.cuda_graphs,
        callbacks=[LogFile(context.folder / "log.jsonl"), *context.callbacks],
        **options,
    )
    trainer.remove_callback(PrinterCallback)  # which prints every log if there is no progress bar
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # Its default is within the folder of the stage, which is removed when the run is finished.
            callback.logging_dir = str(context.folder / "tensorboard" / stage)
    return trainer


def train(context: Context, trainer: PruningTrainer, stage: str) -> None:
    """Train from the last checkpoint, if there is one; time and memory count to `stage`."""
    checkpoint = processes.on_main(partial(last_checkpoint, str(trainer.args.output_dir)))
    with context.accounting.stage(stage) as stopwatch:
        trainer.add_callback(Recorded(stopwatch))
        trainer.train(resume_from_checkpoint=checkpoint)


def recorded(context: Context, stopwatch: Stopwatch) -> Context:
    """The context whose trainings, several in one stage, count to that while they run."""
    return replace(context, callbacks=(*context.callbacks, RecordedAround(stopwatch)))


def _evaluated(data: RunData, prediction: EvalPrediction) -> dict[str, float]:
    """The scores of an evaluation during training."""
    task, (predictions, rows) = evaluation_task(data), in_order(prediction, data.eval_rows)
    return task.score(task.read(predictions, data.tokenizer), rows)
