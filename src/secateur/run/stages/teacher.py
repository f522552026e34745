"""Stage 1: the model itself is fine-tuned to be the teacher, unless it is fine-tuned already or a teacher is named."""

from __future__ import annotations

from functools import partial

from transformers import set_seed

from secateur.run.context import Context
from secateur.run.models import base_model, teacher_name
from secateur.run.stage_trainer import stage_trainer, train
from secateur.run.teacher_check import warn_of_score
from secateur.run.training_arguments import steps_of_teacher
from secateur.surgery.checkpoint import save
from secateur.system import processes
from secateur.training.objectives import Labels


def done(context: Context) -> bool:
    """Whether there is a teacher."""
    return teacher_name(context) is not None or context.teacher_folder.is_dir()


def run(context: Context) -> None:
    """Fine-tune the model, and save it as the teacher."""
    training = context.recipe.training
    set_seed(context.recipe.seed)
    model = base_model(context)
    trainer = stage_trainer(
        context,
        model,
        "teacher-training",
        steps_of_teacher(context),
        rows=context.data.train_rows,
        objective=[Labels(smoothing=context.recipe.distillation.label_smoothing)],
        learning_rate=training.teacher_learning_rate,
    )
    train(context, trainer, "teacher")
    warn_of_score(context, model)
    processes.on_main(partial(save, model, context.teacher_folder, tokenizer=context.data.tokenizer))
