"""The data that `secateur cut` chooses units by, refits weights on, and scores the model with before and after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.cli.given_data import opened_data
from secateur.measure.evaluation import Row, check_rows, encoded, fitted_to, scores, shuffled
from secateur.run.calibration import Calibration
from secateur.run.recipe_data import DataRecipe
from secateur.run.vocabulary_data import piece_counts
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.tokenizer import cut_tokenizer
from secateur.tasks.task import Task

COUNTED = 20_000
"""Training rows that are enough to know how often a piece occurs."""


@dataclass(frozen=True)
class CutRows:
    """The data that a model is cut by: its training rows choose and refit, its others score."""

    data: DataRecipe
    task: Task
    tokenizer: PreTrainedTokenizerBase
    seed: int
    count: int
    refit: bool

    @classmethod
    def of(cls, given: dict[str, Any], model: PreTrainedModel, name: str, count: int, refit: bool) -> CutRows | None:
        """The data that was given, in the tokens of a model that is fine-tuned for it; None where none was.

        Args:
            count: of training rows to look at.
            refit: whether the weights that are left are refitted on them.

        Raises:
            UserError: the data cannot be read, the model has no head for it, or a scored row has more tokens than it
                has positions.
        """
        if "data.source" not in given:
            return None
        data, read = opened_data(given)
        rows = cls(data, *fitted_to(read, model, name, own_reference=True), given.get("seed", 0), count, refit)
        check_rows(rows.scored_rows, model)
        return rows

    @cached_property
    def scored_rows(self) -> list[Row]:
        """The rows that are scored, in the tokens of the model before the cut."""
        return encoded(self.task, "validation", self.tokenizer, self.data.max_length)

    @property
    def method(self) -> str:
        """The method by default."""
        return "fisher" if self.task.label_names else "obs"

    def calibration(self, pieces: Vocabulary | None) -> Calibration:
        """The training rows that a cut looks at, in the tokens of the pieces that it keeps."""
        tokenizer = self._tokenizer(pieces)
        return Calibration.sampled(self.task, tokenizer, self.data.max_length, self.count, self.seed, refit=self.refit)

    def piece_counts(self, pieces: Vocabulary | None) -> Tensor | None:
        """How often each piece that is kept occurs in `COUNTED` training rows, drawn by the seed; None for images."""
        tokenizer = self._tokenizer(pieces)
        chosen = shuffled(len(self.task.splits["train"]), self.seed)[:COUNTED]
        rows = encoded(self.task, "train", tokenizer, self.data.max_length, chosen)
        return piece_counts(self.task, rows, tokenizer)

    def scores(self, before: PreTrainedModel, after: PreTrainedModel, pieces: Vocabulary | None) -> dict[str, Any]:
        """The main score of the model before and after, which keeps these pieces, and on what."""
        count, origin = len(self.task.splits["validation"]), self.task.origin
        return {
            "metric": self.task.metric,
            "before": scores(before, self.task, self.scored_rows, self.tokenizer)[self.task.metric],
            "after": self._score(after, pieces),
            "rows": count,
            "split": origin.scored,
        }

    def _tokenizer(self, pieces: Vocabulary | None) -> PreTrainedTokenizerBase:
        return self.tokenizer if pieces is None else cut_tokenizer(self.tokenizer, pieces)

    def _score(self, model: PreTrainedModel, pieces: Vocabulary | None) -> float:
        rows, tokenizer = self.scored_rows, self._tokenizer(pieces)
        if pieces is not None:
            rows = encoded(self.task, "validation", tokenizer, self.data.max_length)
        return scores(model, self.task, rows, tokenizer)[self.task.metric]
