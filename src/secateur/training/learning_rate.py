"""The learning rates of a stage, which are a part of Trainer's schedule over the whole run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, TrainingArguments, get_scheduler

from secateur.system.errors import UserError

Rule = Callable[[int], float]
"""The factor of a learning rate as a function of the optimizer step."""


def part_of_schedule(
    args: TrainingArguments,
    optimizer: Optimizer,
    steps: int,
    part: tuple[float, float],
    restarts: Sequence[float] = (),
) -> LambdaLR:
    """The schedule that `args` ask for, over a run of which these steps are a part.

    A group of the optimizer with `constant: True` keeps its learning rate. Numbers of steps in `args` are those of the
    run, or of each part between two restarts.

    Args:
        steps: optimizer steps of the stage.
        part: where in the run the stage begins and ends, in [0, 1].
        restarts: where in the run the schedule starts again, in ascending order.

    Raises:
        UserError: the schedule is not a function of the step alone, or its options do not fit it.
    """
    begin, end = part
    steps_of_run = round(steps / (end - begin))
    starts = [round(steps_of_run * start) for start in (0.0, *restarts)]
    rounds = [
        _rules(args, optimizer, stop - start) for start, stop in zip(starts, [*starts[1:], steps_of_run], strict=True)
    ]
    rules = [
        _constant if group.get("constant") else _in_rounds(starts, own, round(steps_of_run * begin))
        for *own, group in zip(*rounds, optimizer.param_groups, strict=True)
    ]
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr")  # where the first schedule has stored it
    return LambdaLR(optimizer, rules)


def _rules(args: TrainingArguments, optimizer: Optimizer, steps: int) -> list[Rule]:
    """For each group of the optimizer, the factor of its learning rate as a function of the step, over some steps."""
    kind, warmup = SchedulerType(args.lr_scheduler_type).value, args.get_warmup_steps(steps)
    options: Any = args.lr_scheduler_kwargs or {}  # a text of the command line was read as a dict
    try:
        schedule = get_scheduler(kind, optimizer, warmup, steps, options)
    except (TypeError, ValueError) as error:
        raise UserError(f"lr_scheduler_kwargs {options} do not fit lr_scheduler_type {kind}: {error}") from error
    if not isinstance(schedule, LambdaLR):
        raise UserError(f"lr_scheduler_type {kind} cannot span stages: use linear or cosine")
    return schedule.lr_lambdas


def _in_rounds(starts: Sequence[int], rules: Sequence[Rule], offset: int) -> Rule:
    """From its step `offset` on, the rule that consists of one rule for each round."""

    def rule(step: int) -> float:
        number = bisect_right(starts, step + offset) - 1
        return rules[number](step + offset - starts[number])

    return rule


def _constant(step: int) -> float:
    return 1.0
