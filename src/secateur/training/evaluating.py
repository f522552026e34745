"""Evaluations in a training: under the masks, scored by what a model generates, and the best of them noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel

from secateur.methods.method import Method
from secateur.system.compat.trainer import HookedTrainer
from secateur.system.process_memory import FreePages
from secateur.training.best import BestEvaluation
from secateur.training.foreign_arguments import check_evaluations
from secateur.training.masks import TrainingMasks, masked
from secateur.training.nonfinite import FiniteWatch
from secateur.training.step import INDEX


class EvaluatingTrainer(HookedTrainer):
    """A Trainer that evaluates under the method's deterministic masks.

    Attributes:
        generate: returns the tokens `(batch, tokens)` that a model in evaluation mode generates for a batch without
            labels; None to score the outputs.
        best: notes the best evaluation, if one is to be chosen.
        free_pages: of the allocator, which are kept few.
    """

    generate: Callable[[PreTrainedModel, Mapping[str, Tensor]], Tensor] | None
    best: BestEvaluation | None
    method: Method | None
    masks: TrainingMasks
    finite: FiniteWatch
    free_pages: FreePages

    def rebuilding(self) -> AbstractContextManager[None]:
        return self.masks.lifted()

    def begin_selection(self, resumed: bool) -> None:
        """Before a training: check that there are evaluations to select among, and drop what an earlier one has kept.

        Args:
            resumed: whether the training goes on from a checkpoint.
        """
        if self.best is None:
            return
        check_evaluations(self.args, self.best.metric)
        if not resumed and self.args.should_save:
            self.best.forget()

    @masked
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As in Trainer, under the method's deterministic masks."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.best is not None and self.is_in_train and metric_key_prefix == "eval":
            self.best.check(metrics)
            if self.method is None or self.method.reached_target():
                self.finite.check()
                with self.whole_states():
                    if self.args.should_save:
                        self.best.offer(metrics, self.state.global_step)
        return metrics

    predict = masked(HookedTrainer.predict)

    def outputs_of(self, rows: Sequence[Mapping[str, Any]]) -> EvalPrediction:
        """What the model gives for rows under the deterministic masks, in an order of Trainer's; nothing is logged.

        In a training it does not count as an evaluation: neither callbacks nor `best` are told.
        """
        scoring, self.compute_metrics = self.compute_metrics, None
        try:
            outputs = self.predict(cast(Any, rows))
        finally:
            self.compute_metrics = scoring
        return EvalPrediction(outputs.predictions, cast(Any, outputs.label_ids))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in Trainer, without the loss of an evaluation whose rows have no labels: there is none."""
        if not set(self.label_names) - {INDEX}:
            logs.pop("eval_loss", None)
        super().log(logs, *args, **kwargs)

    @masked
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """As in Trainer, but with generated tokens in place of outputs if the task generates."""
        self.free_pages.check()
        if self.generate is None or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self.on_device(inputs)
        loss, _, _ = super().prediction_step(model, dict(inputs), True, ignore_keys)  # also samples the masks
        labels = tuple(inputs.pop(name) for name in self.label_names)
        inputs.pop(INDEX, None)  # a model does not generate from the numbers of its rows
        with self.compute_loss_context_manager():
            tokens = self.generate(self.model, inputs)
        return loss, tokens, labels[0] if len(labels) == 1 else labels
