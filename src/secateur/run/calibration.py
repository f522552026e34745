"""Calibration: what a method learns from a model on some rows, without training, and the refit after the cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.evaluation import BATCH, Row, encoded
from secateur.methods.method import Calibrated, Method
from secateur.run.context import Context
from secateur.run.run_data import RunData
from secateur.run.target import new_method, read_latency_table
from secateur.structure.plan import Plan
from secateur.surgery.compensation import Refit, compensate
from secateur.surgery.input_moments import inputs_of
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.task import Task
from secateur.training.step import INDEX

log = logging.getLogger(__name__)

ROWS = 512
"""Training rows by default: some thousand tokens, several for each input of a Linear."""


@dataclass(frozen=True)
class Calibration:
    """Training rows to look at a model on.

    Attributes:
        task: with its labels as the model has them.
        rows: encoded, of the training split.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    rows: tuple[Row, ...]

    @classmethod
    def sampled(
        cls, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, count: int = ROWS, seed: int = 0
    ) -> Calibration:
        """Rows of the training split, drawn by a seed: as many as asked for, or all of them."""
        total = len(task.splits["train"])
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist()
        return cls(task, tokenizer, tuple(encoded(task, "train", tokenizer, max_length, chosen)))

    @classmethod
    def of_run(cls, data: RunData, count: int = ROWS) -> Calibration:
        """Of the rows that a run trains on, drawn by its seed; rows that are held out are not among them."""
        rows = data.train_rows
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(data.recipe.seed))[:count].tolist()
        return cls(data.task, data.tokenizer, tuple(rows[number] for number in chosen))

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """Rows of similar lengths together, because padding is computed too."""
        rows = sorted(self.rows, key=lambda row: len(row["input_ids"]))
        collate = self.task.collator(self.tokenizer)
        groups = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
        return [{name: value for name, value in collate(group).items() if name != INDEX} for group in groups]

    def teach(self, method: Method) -> None:
        """Let a method look at the inputs of its model, or observe the gradient of the task's loss, batch by batch.

        Raises:
            UserError: it observes a loss, and the data has no labels.
        """
        model = method.space.model
        if isinstance(method, Calibrated):
            with self._own_loss(model):
                method.calibrate(self.batches)
        elif method.listens_to:
            if not self.task.label_names:
                raise UserError(
                    f"{method.name!r} observes the loss of labels, which the task {self.task.name!r} has not: take "
                    "--method obs, which needs inputs alone"
                )
            with self._own_loss(model), torch.enable_grad(), attached(model, method.space, method.masks()) as masked:
                for batch in self.batches:
                    method.observe(torch.autograd.grad(model(**inputs_of(model, batch)).loss, masked.masks)[0])

    def compensate(self, small: PreTrainedModel, dense: PreTrainedModel, plan: Plan) -> list[Refit]:
        """Refit the Linears of a cut model to the outputs of the dense one on these rows, in place."""
        with self._own_loss(small), self._own_loss(dense):
            done = compensate(small, dense, plan, self.batches)
        if done:
            before, after = (sum(getattr(one, name) for one in done) / len(done) for name in ("before", "after"))
            log.info(
                "refitted %d Linears on %d rows: error of their outputs %.3f of the variance before, %.3f after",
                *(len(done), len(self.rows), before, after),
            )
        return done

    @contextmanager
    def _own_loss(self, model: PreTrainedModel) -> Iterator[None]:
        """A context in which the model is in evaluation mode and has the loss of the task."""
        came = model.config.problem_type
        model.config.problem_type = self.task.head().get("problem_type", came)
        try:
            with evaluating([model]):
                yield
        finally:
            model.config.problem_type = came


def calibrated_method(context: Context, student: PreTrainedModel) -> Method:
    """The method of a run for a student before pruning, which has looked at it on training rows if it needs to."""
    method = new_method(context.recipe, student, read_latency_table(context.folder))
    if isinstance(method, Calibrated):
        Calibration.of_run(context.data).teach(method)
    return method
