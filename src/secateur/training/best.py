"""The best evaluation of a training: its weights are kept in a file and restored at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from transformers import TrainingArguments

from secateur.methods.method import Method
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.tensor_file import load_into, read_notes, save_tensors

BEST = "best.safetensors"
"""The file of a training's folder with the weights, the score and the step of its best evaluation."""
FORMAT = FileFormat()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestEvaluation:
    """The weights of the evaluation with the best score.

    Attributes:
        metric: the name of the score, without the prefix `eval_` of the logs.
        parts: the modules whose weights are kept and restored, by name.
        greater_is_better: whether the highest score is the best; if not, the lowest is.
    """

    path: Path
    metric: str
    parts: Mapping[str, nn.Module]
    greater_is_better: bool = True

    def check(self, metrics: Mapping[str, float]) -> None:
        """Refuse metrics of an evaluation that lack the score.

        Raises:
            UserError: the message names the metrics.
        """
        if f"eval_{self.metric}" not in metrics:
            names = ", ".join(sorted(name.removeprefix("eval_") for name in metrics))
            raise UserError(f"select={self.metric!r} is not among the metrics of an evaluation: choose one of {names}")

    def offer(self, metrics: Mapping[str, float], step: int) -> None:
        """Save the present weights unless an earlier evaluation scored better, as any number does than NaN."""
        score, before = metrics[f"eval_{self.metric}"], self._score_before(step)
        if before is None or (score >= before if self.greater_is_better else score <= before):
            self._keep(score, step)

    def forget(self) -> None:
        """Remove what an earlier training has kept in this place."""
        self.path.unlink(missing_ok=True)

    def restore(self, method: Method | None = None) -> None:
        """Restore the weights of the best evaluation; if there is none, they are unchanged, and a warning says so.

        Args:
            method: of the training, to whose options the warning refers.
        """
        if not self.path.is_file():
            log.warning(
                "select=%r has chosen none: no evaluation came after the method had reached its target, so that the "
                "last weights stay; end the ramp earlier, or %s",
                self.metric,
                "allow the method a tolerance" if hasattr(method, "tolerance") else "evaluate more often",
            )
            return
        for part, module in self.parts.items():
            load_into(module, self.path, FORMAT, f"{part}.")

    def _score_before(self, step: int) -> float | None:
        """The best score of the earlier steps, if it is a number.

        One of a later step was left by a crash and does not count.
        """
        if not self.path.is_file():
            return None
        notes = read_notes(self.path, FORMAT)
        score = float(notes["score"])
        return None if math.isnan(score) or int(notes["step"]) >= step else score

    def _keep(self, score: float, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(self.path, self._state(), FORMAT, {"score": repr(score), "step": str(step)})

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": value.detach().clone().contiguous()
            for part, module in self.parts.items()
            for name, value in module.state_dict().items()
        }


def best_evaluation(
    args: TrainingArguments, metric: str | None, parts: Mapping[str, nn.Module]
) -> BestEvaluation | None:
    """The best evaluation of a training by a metric, kept in its folder; None without a metric."""
    if metric is None:
        return None
    return BestEvaluation(Path(str(args.output_dir)) / BEST, metric, parts, greater_is_better(args, metric))


def greater_is_better(args: TrainingArguments, metric: str) -> bool:
    """Whether a larger metric is better: as the arguments say; else a loss is the better the lower, as in Trainer.

    Where the arguments name another metric (`metric_for_best_model`), what they say is of that one.
    """
    named = args.metric_for_best_model
    of_it = named is None or named.removeprefix("eval_") == metric
    said = args.greater_is_better if of_it else None
    return not metric.endswith("loss") if said is None else said
