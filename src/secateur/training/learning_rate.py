"""The learning rates of a stage, which are a part of Trainer's schedule over the whole run."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from secateur.system.errors import UserError


def part_of_schedule(args: TrainingArguments, optimizer: Optimizer, steps: int, part: tuple[float, float]) -> LambdaLR:
    """The schedule that `args` ask for, over a run of which these steps are a part.

    A group of the optimizer with `constant: True` keeps its learning rate.

    Args:
        steps: optimizer steps of the stage.
        part: where in the run the stage begins and ends, in [0, 1].

    Raises:
        UserError: the schedule is not a function of the step alone.
    """
    begin, end = part
    steps_of_run = round(steps / (end - begin))
    warmup = args.get_warmup_steps(steps_of_run)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps_of_run)
    if not isinstance(schedule, LambdaLR):
        raise UserError(f"lr_scheduler_type {args.lr_scheduler_type} cannot span stages: use linear or cosine")
    shifted = [
        _constant if group.get("constant") else _shifted(rule, round(steps_of_run * begin))
        for rule, group in zip(schedule.lr_lambdas, optimizer.param_groups, strict=True)
    ]
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr")  # where the first schedule has stored it
    return LambdaLR(optimizer, shifted)


def _shifted(rule: Callable[[int], float], offset: int) -> Callable[[int], float]:
    """The rule from its step `offset` on."""
    return lambda step: rule(step + offset)


def _constant(step: int) -> float:
    return 1.0
