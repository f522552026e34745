"""Classification and regression of one text or a pair of texts, the forms of all GLUE tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.system.errors import UserError
from secateur.tasks import TASKS, predictors, register
from secateur.tasks.checkpoint_labels import config_of
from secateur.tasks.class_scores import ClassScore, of_classes
from secateur.tasks.classification_data import LABELS, check_classes, prepare
from secateur.tasks.columns import with_fields
from secateur.tasks.labelled import LabelledTask
from secateur.tasks.one_output import REGRESSION, SIGMOID, has_sigmoid
from secateur.tasks.predictors import Predictor
from secateur.tasks.rows import check_length
from secateur.tasks.splits import read_splits
from secateur.tasks.task import Task
from secateur.tasks.tokenizer_settings import kept_settings

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
CLASS_METRICS = ("accuracy", "f1", "matthews")  # the first is the default
SCORE_METRICS = ("pearson_spearman", "pearson", "spearman")
HEADS = {SINGLE_LABEL: ("one label", "classification"), MULTI_LABEL: ("several labels", "multilabel")}
"""The `problem_type` of a head -> what it predicts, and the task of texts for it."""
MOST = 20
"""Classes that are described one by one."""


@register("classification")
@dataclass(frozen=True, eq=False, repr=False)
class Classification(LabelledTask):
    """One class, or one number, for a text or a pair of texts.

    Attributes:
        splits: "train" and "validation", with only `columns` and `label`; a class is its index in `labels`.
        columns: the one or two columns of text.
        label: the column to predict.
        labels: the names of the classes, in the order of the head's outputs; None for regression.
        metric: the main score: one of `CLASS_METRICS`, or of `SCORE_METRICS` for regression.
        sigmoid: whether scores are compared with the sigmoid of the one output, as `fitted` finds out.
        positive: of two classes the index of the one whose F1 is `f1`: the second in the order of the data.
    """

    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    predictor: ClassVar[Predictor | None] = predictors.CLASSES
    augmentable: ClassVar[bool] = True
    problem_type: ClassVar[str] = SINGLE_LABEL

    splits: DatasetDict
    columns: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    metric: str
    sigmoid: bool = False
    positive: int = 1

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: Sequence[str] | None = None,
        label: str | None = None,
        labels: Sequence[str] | None = None,
        scores: bool = False,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
    ) -> Classification:
        """Read `data` (see `read_splits`) and recognise its columns and labels.

        Labels that are strings are classes, sorted (numbers by their value); integers are classes 0..max, with the
        names that the data has for them or else LABEL_0, LABEL_1, ..., and without a 0 those that occur, such as stars
        from 1; numbers with a fraction are the targets of a regression. `fitted` puts classes in the order of a model.

        Args:
            data: a name on the hub, a folder, a file or "bbc".
            text: the one or two columns of text; by default the first of `TEXTS` that exist.
            label: the column to predict; by default the first of `LABELS` that exists.
            labels: the labels in the order of the model's outputs, or names for the integers from 0; by default the
                order of the data.
            scores: whether numbers are the targets of a regression, also if they have no fractions.
            metric: the main score; by default accuracy, or pearson_spearman for regression.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`.

        Raises:
            UserError: the data cannot be read; a column is missing, is empty or has gaps; there is only one class;
                validation has a class that training lacks; the metric is unknown; `rows` < 1.
        """
        candidates = (label,) if label else LABELS
        prepared = partial(prepare, text=text, label=label, asked=labels, scores=scores)
        splits = read_splits(
            data, validation=validation, label=candidates, each=with_fields, prepare=prepared, seed=seed
        )
        *columns, label = splits["train"].column_names
        check_classes(splits, label)
        feature = splits["train"].features[label]
        names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
        return cls(splits, tuple(columns), label, names, choose_metric(metric, names)).with_first_rows(rows, seed)

    def head(self) -> dict[str, Any]:
        if self.labels is None:
            return {"num_labels": 1, "problem_type": SIGMOID if self.sigmoid else REGRESSION}
        return {**super().head(), "problem_type": self.problem_type}

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """As `LabelledTask.fitted`; a head for one label a row does not fit several, nor the other way round.

        Scores are compared with the one output as the checkpoint means it (see `one_output`).
        """
        config = config_of(model_or_folder)
        if self.labels is None and self._has_head(config) and config.num_labels == 1:
            scores = (value for split in self.splits.values() for value in split[self.label][:])
            return replace(self, sigmoid=has_sigmoid(config, scores, self.label))
        if self._has_head(config) and config.num_labels != 1 and config.problem_type == _other(self.problem_type):
            one, own = HEADS[config.problem_type]
            other = f"take --task {own}, or" if TASKS.get(own).model_class is self.model_class else "give"
            raise UserError(f"the {role} predicts {one} a row ({config.problem_type}): {other} another {role}")
        return super().fitted(model_or_folder, role)

    def _moved(self, outputs: Sequence[int]) -> dict[str, Any]:
        return {"positive": outputs[self.positive]} if len(outputs) == 2 else {}

    def texts_with_class(self, split: str) -> tuple[list[str], list[int]] | None:
        """The text of each row of a split, a pair joined to one, and its class; None for scores and several labels."""
        if self.labels is None or self.problem_type != SINGLE_LABEL:
            return None
        rows = self.splits[split]
        texts = zip(*(rows[column][:] for column in self.columns), strict=True)
        return [" ".join(one) for one in texts], list(rows[self.label][:])

    def described(self) -> dict[str, str]:
        """As `LabelledTask.described`, with the number of training rows of each class."""
        if self.labels is None:
            return super().described()
        counts = self._counts()
        classes = [f"{name} {counts[index]:,}" for index, name in enumerate(self.labels)]
        more = f", and {len(classes) - MOST:,} more" if len(classes) > MOST else ""
        scored = f"; f1 is that of {self.labels[self.positive]}" if len(classes) == 2 and self.metric == "f1" else ""
        shown = f"{', '.join(classes[:MOST])}{more}{scored}"
        return super().described() | {"labels": f"{self.label}, {len(self.labels)} classes: {shown}"}

    def only_answer(self, split: str) -> str | None:
        values = {*self.splits[split][self.label]}
        if len(values) > 1:
            return None
        (value,) = values
        return f"the number {value:g}" if self.labels is None else f"the label {self.labels[value]}"

    def _counts(self) -> Counter[int]:
        """Index of a class -> number of training rows."""
        return Counter(self.splits["train"][self.label])

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded.

        Args:
            split: rows with `columns` and `label`.
            tokenizer: the model's.
            max_length: tokens to keep of a row, special ones included; a pair loses those of its longer text
                first.

        Returns:
            The columns of the tokenizer (input_ids, attention_mask, perhaps token_type_ids), `labels` (class
            index, float, or for a sigmoid a list of a float) and `length` (tokens).

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes.
        """
        check_length(max_length, tokenizer)
        columns, label = self.columns, self.label  # not `self`: `map` hashes what its function refers to
        sigmoid = self.sigmoid

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = (batch[column] for column in columns)
            encoded = tokenizer(*texts, truncation=True, max_length=max_length)
            labels = [[value] for value in batch[label]] if sigmoid else batch[label]
            return {**encoded, "labels": labels, "length": [len(ids) for ids in encoded["input_ids"]]}

        with kept_settings(tokenizer):
            return split.map(tokens, batched=True, remove_columns=split.column_names, desc="tokenize")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score by name: those in `CLASS_METRICS`, or in `SCORE_METRICS` for regression.

        `f1` is that of class `positive` if there are two, else the unweighted average over the classes that occur.
        `pearson_spearman` is the average of the two. What is undefined, such as the correlation of a constant
        prediction, is 0.0.

        Args:
            prediction: logits `(rows, labels)`, alone or first of a tuple, and labels `(rows,)`, or `(rows, 1)` for a
                sigmoid.
        """
        logits, labels = logits_of(prediction), np.asarray(prediction.label_ids)
        if self.labels is None:
            return _score_metrics(*(values.reshape(-1).astype(np.float64) for values in (logits, labels)))
        return _class_metrics(logits.argmax(-1), labels, self.positive if len(self.labels) == 2 else None)

    def class_scores(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> list[ClassScore]:
        """Those of each class, none for a regression."""
        if self.labels is None:
            return []
        return of_classes(logits_of(prediction).argmax(-1), np.asarray(prediction.label_ids), self.labels)

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The score of the commonest class, or of the best class if the metric is another.

        For regression it is 0.0, because no constant is correlated with anything.
        """
        if self.labels is None:
            return 0.0
        gold = np.array([row["labels"] for row in rows])
        constant = (np.tile(np.eye(len(self.labels))[index], (len(rows), 1)) for index in np.unique(gold))
        return max(self.compute_metrics(EvalPrediction(logits, gold))[self.metric] for logits in constant)


def logits_of(prediction: EvalPrediction) -> NDArray[Any]:
    """The logits `(rows, labels)` of a prediction, alone or first of a tuple."""
    outputs = prediction.predictions
    return np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)


def _other(problem_type: str) -> str:
    return SINGLE_LABEL if problem_type == MULTI_LABEL else MULTI_LABEL


def choose_metric(metric: str | None, labels: tuple[str, ...] | None) -> str:
    """The metric that is asked for, or the first one.

    Raises:
        UserError: it is not known for classes, or, without labels, for scores.
    """
    known = SCORE_METRICS if labels is None else CLASS_METRICS
    if metric is not None and metric not in known:
        kind = "regression" if labels is None else "classes"
        raise UserError(f"metric {metric!r} is not known for {kind}: choose one of {', '.join(known)}")
    return metric or known[0]


def _class_metrics(predicted: NDArray[Any], labels: NDArray[Any], positive: int | None) -> dict[str, float]:
    counted = None if positive is None else [positive]
    f1 = f1_score(labels, predicted, labels=counted, average="macro", zero_division=0.0)
    return {
        "accuracy": float((predicted == labels).mean()),
        "f1": float(f1),
        "matthews": float(matthews_corrcoef(labels, predicted)) if len({*labels, *predicted}) > 1 else 0.0,
    }


def _score_metrics(predicted: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    if len(labels) < 2 or not (np.ptp(labels) and np.ptp(predicted)):
        return dict.fromkeys(SCORE_METRICS, 0.0)
    pearson = float(np.nan_to_num(pearsonr(predicted, labels).statistic))
    spearman = float(np.nan_to_num(spearmanr(predicted, labels).statistic))
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
