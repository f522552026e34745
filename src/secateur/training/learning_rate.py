"""Learning rates of a stage that is a part of a run: Trainer's schedule over the run, from where the stage begins."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from secateur.system.errors import UserError


def part_of_schedule(args: TrainingArguments, optimizer: Optimizer, steps: int, part: tuple[float, float]) -> LambdaLR:
    """The schedule that `args` ask for, over a whole of which `steps` are the part from `begin` to `end`.

    A group of the optimizer with `constant` keeps its learning rate.

    Raises:
        UserError: the schedule is not a function of the step alone.
    """
    begin, end = part
    whole = round(steps / (end - begin))
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(whole), whole)
    if not isinstance(schedule, LambdaLR):
        raise UserError(f"lr_scheduler_type {args.lr_scheduler_type} cannot span stages: use linear or cosine")
    shifted = [
        _constant if group.get("constant") else _shifted(rule, round(whole * begin))
        for rule, group in zip(schedule.lr_lambdas, optimizer.param_groups, strict=True)
    ]
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr")
    return LambdaLR(optimizer, shifted)


def _shifted(rule: Callable[[int], float], offset: int) -> Callable[[int], float]:
    """A rule that starts `offset` steps into another."""
    return lambda step: rule(step + offset)


def _constant(step: int) -> float:
    return 1.0
