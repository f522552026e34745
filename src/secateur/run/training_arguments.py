"""The `TrainingArguments` of a stage, made from a recipe."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.system import compat, devices, processes
from secateur.tasks.checkpoint_labels import config_of
from secateur.training.step import INDEX

LOGS = 50
"""The approximate number of log lines of a stage."""
STUDENT_RATE, TEACHER_RATE = 0.384, 0.0384
"""Learning rates of pruning, and of the training of a teacher, times the hidden size (RESULTS.md)."""


def training_arguments(
    context: Context,
    stage: str,
    steps: int,
    *,
    learning_rate: float,
    constant: bool = False,
    seed: int | None = None,
) -> TrainingArguments:
    """The arguments of a stage that trains in the folder `RUN/stage`.

    Args:
        steps: of the optimizer.
        learning_rate: the highest learning rate.
        constant: whether the learning rate stays constant after the warm-up.
        seed: of dropout and other noise; by default that of the recipe, which the order of the rows always has.
    """
    training = context.recipe.training
    return TrainingArguments(
        str(context.folder / stage),
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup" if constant else "linear",
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        optim="adamw_torch_fused",
        **_batches(context),
        **_device(context.recipe),
        **_events(context.recipe, steps),
        greater_is_better=context.data.task.greater_is_better,
        seed=context.recipe.seed if seed is None else seed,
        data_seed=context.recipe.seed,
        report_to=list(training.report_to),
        run_name=f"{context.folder.name}-{stage}",
    )


def learning_rate_of_run(context: Context) -> float:
    """The highest learning rate of pruning and recovery: that of the recipe, or one that suits the model's width."""
    return context.recipe.training.learning_rate or _for_width(context, STUDENT_RATE)


def first_teacher_rate(context: Context) -> float:
    """The highest learning rate of the training of a teacher, or that with which the search for one begins."""
    return context.recipe.training.teacher_learning_rate or _for_width(context, TEACHER_RATE)


def _for_width(context: Context, rate: float) -> float:
    """A learning rate for a model with a residual stream of width 1, for the width of the run's model, in three digits.

    AdamW changes each weight by about the learning rate, whatever the width, so that the change of a Linear's output
    grows with the number of its inputs (Yang et al., Tensor Programs V, NeurIPS 2021).
    """
    return float(f"{rate / int(config_of(context.recipe.model).hidden_size):.3g}")


def steps_of_run(context: Context) -> float:
    """Optimizer steps of pruning and recovery together, of which each stage takes a part and rounds it."""
    training = context.recipe.training
    assert training.minutes is None, "the steps of a run of so many minutes are decided before"
    return float(training.steps) if training.steps is not None else _steps_of(context, training.epochs or 0.0)


def steps_of_teacher(context: Context) -> int | None:
    """Optimizer steps of the training of a teacher, None where a search chooses them."""
    epochs = context.recipe.training.teacher_epochs
    return None if epochs is None else rounded(_steps_of(context, epochs))


def steps_of_trial(context: Context) -> int:
    """Optimizer steps of a trial, of a density or of a number of layers."""
    return rounded(steps_of_run(context) * context.recipe.method.trial)


def rounded(steps: float) -> int:
    """A number of steps, at least one."""
    return max(1, round(steps))


def _steps_of(context: Context, epochs: float) -> float:
    """Steps of epochs over the training rows, not rounded; copies made by augmentation add none."""
    training = context.recipe.training
    return epochs * len(context.data.train_rows) / (training.batch_size * training.accumulate)


def evaluations_of(recipe: Recipe, steps: int) -> int:
    """The number of evaluations of a stage of that many steps."""
    asked = recipe.training.evaluations
    return -(-steps // _interval(steps, asked)) if asked else 0


def _interval(steps: int, times: int) -> int:
    """The steps between two events of a stage, of which there are at most so many, the last one at its last step."""
    return max(1, -(-steps // max(1, times)))


def uses_bf16(recipe: Recipe) -> bool:
    """Whether training runs under bf16 autocast: as the recipe says, or where the hardware computes in it.

    That is a GPU that has it, or a CPU with its instructions.
    """
    if recipe.training.bf16 is not None:
        return recipe.training.bf16
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return compat.cpu_computes_bf16()


def _batches(context: Context) -> dict[str, Any]:
    """How rows become batches; those of one optimizer step are shared by all processes."""
    training = context.recipe.training
    return {
        "per_device_train_batch_size": training.batch_size // processes.count(),
        "per_device_eval_batch_size": 2 * training.batch_size // processes.count(),
        "gradient_accumulation_steps": training.accumulate,
        "train_sampling_strategy": "group_by_length",
        "remove_unused_columns": False,
        "label_names": [*context.data.task.label_names, INDEX],
    }


def _device(recipe: Recipe) -> dict[str, Any]:
    accelerated = devices.accelerator() is not None
    return {
        "bf16": uses_bf16(recipe),
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "ddp_find_unused_parameters": False,
    }


def _events(recipe: Recipe, steps: int) -> dict[str, Any]:
    """When a stage of that many steps saves, evaluates and logs."""
    checkpoints, evaluations = recipe.training.checkpoints, recipe.training.evaluations
    return {
        "save_strategy": "steps" if checkpoints else "no",
        "save_steps": _interval(steps, checkpoints),
        "save_total_limit": 1,
        "eval_strategy": "steps" if evaluations else "no",
        "eval_steps": _interval(steps, evaluations),
        "logging_steps": max(1, steps // LOGS),
        "disable_tqdm": True,
    }
