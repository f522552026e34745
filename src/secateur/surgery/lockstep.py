"""Forwards of one model on several batches that wait for each other in front of some modules.

So a module can be changed by what it would read on all batches, before any of them has passed it: one forward of each
batch is enough to change a model from the bottom to the top.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.surgery.input_moments import Batch, on_device

Arrived = Callable[[str, list[Tensor]], None]
"""Called with the name of a module and its input in each batch, with all dimensions, when all batches are there."""


def in_lockstep(
    model: PreTrainedModel, batches: Sequence[Batch], modules: Mapping[str, nn.Module], arrived: Arrived
) -> None:
    """Run a model on all batches, without gradients, and call `arrived` in front of each of the modules.

    Each batch has a thread of its own, of which one computes at a time. All batches must reach the same modules in the
    same order. What a thread or `arrived` raises ends all of them, and is raised here.
    """
    steps = _Steps(len(batches), arrived)
    handles = [module.register_forward_pre_hook(steps.hook(name)) for name, module in modules.items()]
    try:
        with ThreadPoolExecutor(len(batches)) as pool:
            running = [pool.submit(steps.run, number, model, batch) for number, batch in enumerate(batches)]
        _raise_first(running)
    finally:
        for handle in handles:
            handle.remove()


def _raise_first(running: Sequence[Future[None]]) -> None:
    """Raise what went wrong; that other threads were stopped is only its consequence."""
    errors = [error for one in running if (error := one.exception()) is not None]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (causes or errors)[0]


class _Steps:
    """The threads of a lockstep: who waits where, and with which input."""

    def __init__(self, count: int, arrived: Arrived) -> None:
        self.barrier = threading.Barrier(count, action=self._all_there)
        self.turn, self.own, self.arrived = threading.Lock(), threading.local(), arrived
        self.inputs: list[Any] = [None] * count
        self.name = ""

    def run(self, number: int, model: PreTrainedModel, batch: Batch) -> None:
        """The forward of one batch, in its thread."""
        self.own.number = number
        try:
            with self.turn, torch.no_grad():
                model(**on_device(batch, model))
        except BaseException:
            self.barrier.abort()
            raise

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """The hook in front of a module, which lets the other threads compute until all are there."""

        def wait(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.inputs[self.own.number], self.name = args[0], name
            self.turn.release()
            try:
                self.barrier.wait()
            finally:
                self.turn.acquire()

        return wait

    def _all_there(self) -> None:
        with torch.no_grad():
            self.arrived(self.name, list(self.inputs))
