"""Stops a training whose losses, gradients or weights are no longer finite, without waiting for the device every step.

Values are inspected on the device. The host reads the result where Trainer waits for the device anyway: at a log, a
checkpoint or the end. Trainer's own filter, which waits in every micro-batch, must be off (`logging_nan_inf_filter`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from secateur.system.errors import UserError
from secateur.system.parts import own_part


class Diverged(UserError):
    """A training whose values are no longer finite; the sentence names the first one, and its step."""


class FiniteWatch:
    """Remembers for each watched value the first optimizer step at which it was not finite.

    Args:
        state: returns the trainer's present state, which tells the step.
    """

    def __init__(self, args: TrainingArguments, accelerator: Accelerator, state: Callable[[], TrainerState]) -> None:
        self.args, self.accelerator, self.state = args, accelerator, state
        self._first: dict[str, Tensor] = {}  # name -> step, infinity while every value was finite

    def watch(self, name: str, value: Tensor) -> None:
        """Inspect a value of any shape, of the optimizer step that comes next, without waiting for the device.

        Nothing is wrong with a value that only another process has.
        """
        if name not in self._first:
            self._first[name] = torch.full((), math.inf, device=self.args.device)
        if value.is_meta:
            return
        first, finite = self._first[name], own_part(value.detach()).isfinite().all().to(self.args.device)
        self._first[name] = torch.where(finite, first, first.clamp(max=self._step()))

    def watch_weights(self, *modules: nn.Module) -> None:
        """Inspect every parameter of the modules."""
        for module in modules:
            for weight in module.parameters():
                self.watch("a weight", weight)

    def check(self) -> None:
        """Wait for the device, and for the other processes, which all must call this.

        Raises:
            Diverged: a value was not finite, in whatever process; the message names it and its step.
        """
        fault = self._earliest()
        if fault is not None:
            other = ", or fp32 in place of bf16" if self.args.bf16 else ""
            raise Diverged(
                f"{fault[0]} is not finite at step {fault[1]} of {self.state().max_steps} ({self.args.output_dir}): "
                f"training stopped and saved nothing since; try a lower learning rate, a longer warmup{other}"
            )

    @contextmanager
    def named_as_cause(self) -> Iterator[None]:
        """An error within the block is reported as the value that was not finite before it, if there was one."""
        try:
            yield
        except Exception:
            if self.accelerator.num_processes == 1:  # of several, others may not reach this line, and it waits
                self.check()
            raise

    def clear(self) -> None:
        """Forget everything, for a new training."""
        self._first.clear()

    def _step(self) -> int:
        """The optimizer step, from 1, of which values are watched now."""
        state = self.state()
        return min(state.global_step + 1, state.max_steps)

    def _earliest(self) -> tuple[str, int] | None:
        """The value that was the first not to be finite, and its step; None if all were finite."""
        if not self._first:
            return None
        steps = self.accelerator.gather(torch.stack([*self._first.values()]))
        earliest = steps.view(-1, len(self._first)).amin(dim=0).tolist()  # of all processes
        step, name = min(zip(earliest, self._first, strict=True), key=lambda fault: fault[0])
        return (name, round(step)) if math.isfinite(step) else None
