"""The memory of a run's steps, predicted from a few of them (`step_times`).

oneDNN keeps the code that it compiles for every length of a batch. In a model that is cut to another width in every
layer it is most of what the process takes, and only a few lengths are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from secateur.system import process_memory
from secateur.training.trainer import PruningTrainer


@dataclass
class StepMemory:
    """The highest memory of the trainings that were measured.

    Attributes:
        highest: kind of memory -> peak in bytes, with the code for lengths that were not measured.
    """

    highest: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, trainer: PruningTrainer, measured: int, lengths: int) -> Iterator[None]:
        """Include the training in the body, on batches of at most `measured` of the `lengths` of the run."""
        process_memory.release_free_pages()
        process_memory.reset_peak()
        before = process_memory.anonymous()
        yield
        peaks = process_memory.peaks()
        code = process_memory.anonymous() - before - _state_bytes(trainer)
        measured = max(1, min(measured, trainer.state.global_step))
        peaks["resident"] += max(0, code) * max(0, lengths - measured) // measured
        self.highest = {kind: max(peak, self.highest.get(kind, 0)) for kind, peak in peaks.items()}


def _state_bytes(trainer: PruningTrainer) -> int:
    """Of the optimizer and of the refit, which the first steps fill."""
    states = [] if trainer.plain_optimizer is None else trainer.plain_optimizer.state.values()
    kept = [value for state in states for value in state.values() if torch.is_tensor(value)]
    return sum(value.nbytes for value in (*kept, *trainer.refit.buffers()))
