"""Multi-label classification: any number of labels for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, List, Value
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from transformers import EvalPrediction, PreTrainedTokenizerBase

from secateur.system.errors import UserError
from secateur.tasks import predictors, register
from secateur.tasks.class_scores import ClassScore, of_indicators
from secateur.tasks.classification import MULTI_LABEL, Classification, logits_of
from secateur.tasks.columns import listed, with_fields
from secateur.tasks.multilabel_data import check_label_sets, possible_labels, prepare
from secateur.tasks.predictors import Predictor
from secateur.tasks.splits import read_splits

METRICS = ("micro_f1", "macro_f1", "subset_accuracy")  # the first is the default


@register("multilabel")
@dataclass(frozen=True, eq=False, repr=False)
class MultiLabel(Classification):
    """Any number of labels for a text or a pair of texts, each with a sigmoid of its own.

    Attributes:
        splits: "train" and "validation", with only `columns` and `label`: lists of the indices of labels in `labels`.
        metric: the main score: one of `METRICS`.
    """

    problem_type: ClassVar[str] = MULTI_LABEL
    predictor: ClassVar[Predictor | None] = predictors.LABEL_SETS
    labels: tuple[str, ...]

    @classmethod
    def from_data(  # type: ignore[override]  # a multi-label task has no scores
        cls,
        data: str,
        *,
        text: Sequence[str] | None = None,
        label: str | None = None,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
    ) -> MultiLabel:
        """Read `data` (see `read_splits`) and recognise its columns and labels.

        The labels of a row are a list of strings or integers, or a list with 0 or 1 for each label, or one label, or a
        text of several (`label_texts`); or each label has a column of 0 and 1.

        Args:
            data: a name on the hub, a folder or a file.
            text: the one or two columns of text; by default the first of `TEXTS` that exist.
            label: the column of labels, or several with commas between them, one for each label; by default the first
                of `LABELS` that exists.
            labels: the labels in the order of the model's outputs, or names for integers or for lists of 0 and 1.
            metric: the main score; by default micro_f1.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`.

        Raises:
            UserError: the data cannot be read; a column is missing, is empty or has gaps; there is only one label;
                validation has a label that training lacks; the metric is unknown; `rows` < 1.
        """
        prepared = partial(prepare, text=text, label=label, asked=labels)
        candidates = possible_labels(label)
        splits = read_splits(
            data, validation=validation, label=candidates, each=with_fields, prepare=prepared, seed=seed
        )
        *columns, column = splits["train"].column_names
        names = tuple(splits["train"].features[column].feature.names)
        check_label_sets(splits, column, names)
        if metric is not None and metric not in METRICS:
            raise UserError(f"metric {metric!r} is not known for several labels: choose one of {', '.join(METRICS)}")
        return cls(splits, tuple(columns), column, names, metric or METRICS[0]).with_first_rows(rows, seed)

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """As for classification, with `labels` of 0.0 or 1.0 for each of the labels."""
        encoded = super().encode(split, tokenizer, max_length)
        chosen = [[float(index in row) for index in range(len(self.labels))] for row in split[self.label][:]]
        return encoded.remove_columns("labels").add_column("labels", chosen, feature=List(Value("float32")))

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score by name: `METRICS`. A label is predicted where its probability is over 0.5, its logit over 0.

        micro_f1 counts all labels of all rows together, macro_f1 is the unweighted average over the labels, and
        subset_accuracy is the fraction of rows whose labels are all right. An undefined F1 is 0.0.

        Args:
            prediction: logits `(rows, labels)`, alone or first of a tuple, and labels `(rows, labels)`.
        """
        return _scores(logits_of(prediction) > 0, np.asarray(prediction.label_ids) > 0.5)

    def class_scores(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> list[ClassScore]:
        """Those of each label."""
        return of_indicators(logits_of(prediction) > 0, np.asarray(prediction.label_ids) > 0.5, self.labels)

    def only_answer(self, split: str) -> str | None:
        sets = {frozenset(row) for row in self.splits[split][self.label]}
        if len(sets) > 1:
            return None
        named = [self.labels[index] for index in sorted(*sets)]
        return f"the labels {listed(named)}" if named else "no label"

    def _counts(self) -> Counter[int]:
        return Counter(index for row in self.splits["train"][self.label] for index in row)

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The score of the best set of labels that is the same for every row.

        The best F1 is that of some number of the commonest labels, the best subset_accuracy that of the commonest set.
        """
        gold = np.array([row["labels"] for row in rows]) > 0.5
        commonest = np.argsort(-gold.sum(0), kind="stable")
        sets = [np.isin(np.arange(len(commonest)), commonest[:count]) for count in range(len(commonest) + 1)]
        found, counts = np.unique(gold, axis=0, return_counts=True)
        sets.append(found[counts.argmax()])
        return max(_scores(np.tile(one, (len(gold), 1)), gold)[self.metric] for one in sets)


def _scores(predicted: NDArray[Any], gold: NDArray[Any]) -> dict[str, float]:
    return {
        "micro_f1": float(f1_score(gold, predicted, average="micro", zero_division=0.0)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0.0)),
        "subset_accuracy": float((predicted == gold).all(1).mean()),
    }
