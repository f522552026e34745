"""Calibration: what a method learns from a model on some rows, without training, and the refit after the cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.evaluation import Row, check_rows, encoded, rows_of_batch, shuffled
from secateur.measure.task_loss import mask_gradients, own_loss
from secateur.methods.method import Calibrated, Method
from secateur.run.context import Context
from secateur.run.run_data import Rows, RunData
from secateur.run.target import new_method, read_latency_table
from secateur.structure.plan import Plan
from secateur.surgery.compensation import Refit, compensate
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.tasks.rows import length_of
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
        refit: whether a model is refitted on them after it was cut.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    rows: tuple[Row, ...]
    refit: bool = True

    @classmethod
    def sampled(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        count: int = ROWS,
        seed: int = 0,
        *,
        refit: bool = True,
    ) -> Calibration:
        """Rows of the training split, drawn by a seed: as many as asked for, or all of them."""
        chosen = shuffled(len(task.splits["train"]), seed)[:count]
        return cls(task, tokenizer, tuple(encoded(task, "train", tokenizer, max_length, chosen)), refit)

    @classmethod
    def of_run(cls, data: RunData, rows: Rows, count: int = ROWS) -> Calibration:
        """Of the training rows that a stage does not hold out, drawn by the seed of the run."""
        chosen = shuffled(len(rows), data.recipe.seed)[:count]
        return cls(data.task, data.tokenizer, tuple(rows[number] for number in chosen))

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """Rows of similar lengths together, because padding is computed too."""
        rows = sorted(self.rows, key=length_of)
        collate = self.task.collator(self.tokenizer)
        size = rows_of_batch(self.task, rows)
        groups = [rows[first : first + size] for first in range(0, len(rows), size)]
        return [{name: value for name, value in collate(group).items() if name != INDEX} for group in groups]

    def batches_for(self, model: PreTrainedModel) -> list[dict[str, Tensor]]:
        """The batches, for a model that takes rows of their lengths.

        Raises:
            UserError: a row has more tokens than the model has positions.
        """
        check_rows(self.rows, model)
        return self.batches

    def check(self, method: Method) -> None:
        """Check that a method can learn from the rows.

        Raises:
            UserError: it observes a loss, and the data has no labels.
        """
        if method.listens_to and not isinstance(method, Calibrated) and not self.task.label_names:
            raise UserError(
                f"{method.name!r} observes the loss of labels, which the task {self.task.name!r} has not: take "
                "--method obs, which needs inputs alone"
            )

    def teach(self, method: Method) -> None:
        """Let a method look at the inputs of its model, or observe the gradient of the task's loss, batch by batch.

        Raises:
            UserError: as `check`, or as `batches_for`; or a gradient is not finite.
        """
        self.check(method)
        model = method.space.model
        if isinstance(method, Calibrated):
            with own_loss(model, self.task):
                method.calibrate(self.batches_for(model))
        elif method.listens_to:
            with own_loss(model, self.task):
                for gradient in mask_gradients(model, method.space, self.batches_for(model)):
                    if not bool(gradient.isfinite().all()):
                        raise UserError(
                            "the gradient of the masks is not finite on these rows, so that it ranks no units: take "
                            "other rows, a model whose loss is finite on them, or --method magnitude"
                        )
                    method.observe(gradient)

    def compensate(self, small: PreTrainedModel, dense: PreTrainedModel, plan: Plan) -> list[Refit]:
        """Refit the Linears of a cut model to the outputs of the dense one on these rows, in place, if `refit`.

        Raises:
            UserError: as `batches_for`.
        """
        if not self.refit:
            return []
        batches = self.batches_for(dense)
        with own_loss(small, self.task), own_loss(dense, self.task):
            done = compensate(small, dense, plan, batches)
        if done:
            before, after = (sum(getattr(one, name) for one in done) / len(done) for name in ("before", "after"))
            log.info(
                "refitted %d Linears on %d rows: error of their outputs %.3f of the variance before, %.3f after",
                *(len(done), len(self.rows), before, after),
            )
        return done


def calibrated_method(context: Context, student: PreTrainedModel, rows: Callable[[], Rows]) -> Method:
    """The method of a run for a student before pruning, which has looked at it on training rows if it needs to.

    Args:
        rows: returns those that it may look at, which are not scored while it prunes.
    """
    method = new_method(context.recipe, student, read_latency_table(context.folder))
    if isinstance(method, Calibrated):
        processes.where_whole(partial(Calibration.of_run(context.data, rows()).teach, method))
    if processes.in_parts():  # weights that only the main process has may have told it something
        method.load_state_dict(processes.on_main(method.state_dict))
    return method
