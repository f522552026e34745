"""Classification and regression of one text or a pair of texts: the shapes of all GLUE tasks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, EvalPrediction, PreTrainedTokenizerBase

from secateur.system.errors import UserError
from secateur.tasks import register
from secateur.tasks.splits import check_count, first_rows, listed, no_column, read_splits, shared_columns
from secateur.tasks.task import Task, check_length

# Tried in order: a pair before the single texts that it may hold.
TEXTS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("question", "passage"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
    ("content",),
    ("review",),
    ("document",),
)
LABELS = ("label", "labels", "target", "class", "category", "sentiment", "score", "similarity")
CLASS_METRICS = ("accuracy", "f1", "matthews")  # the first is the default
SCORE_METRICS = ("pearson_spearman", "pearson", "spearman")
MOST_SCORE = float(np.finfo(np.float32).max)


@register("classification")
@dataclass(frozen=True, eq=False)
class Classification(Task):
    """One class, or one number, for a text or a pair of texts.

    Attributes:
        splits: "train" and "validation", with `columns` and `label` alone; a class is its index in `labels`.
        columns: the one or two columns of text.
        label: the column to predict.
        labels: the names of the classes, in the order of the head's outputs; None for regression.
        metric: the main score: one of `CLASS_METRICS`, or of `SCORE_METRICS` for regression.
    """

    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    augmentable: ClassVar[bool] = True

    splits: DatasetDict
    columns: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    metric: str

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: Sequence[str] | None = None,
        label: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
    ) -> Classification:
        """Read `data` (see `read_splits`) and recognise its columns and labels.

        Labels that are strings are classes, sorted; integers are classes 0..max, under the names that the
        data has for them or else LABEL_0, LABEL_1, ...; numbers with a decimal point are scores to regress.

        Args:
            data: a name on the hub, a folder, a file or "bbc".
            text: the one or two columns of text; by default the first of `TEXTS` that is there.
            label: the column to predict; by default the first of `LABELS` that is there.
            metric: the main score; by default accuracy, or pearson_spearman for regression.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.

        Raises:
            UserError: the data cannot be read; a column is not there, is empty or has gaps; there is only
                one class; validation has a class that training lacks; the metric is not known; `rows` < 1.
        """
        candidates = (label,) if label else LABELS
        prepare = partial(_prepare, text=text, label=label)
        splits = read_splits(data, label=candidates, prepare=prepare, seed=seed)
        *columns, label = splits["train"].column_names
        _check_classes(splits, label)
        feature = splits["train"].features[label]
        labels = tuple(feature.names) if isinstance(feature, ClassLabel) else None
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        return cls(splits, tuple(columns), label, labels, _choose_metric(metric, labels))

    def head(self) -> dict[str, Any]:
        if self.labels is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: index for index, name in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded.

        Args:
            split: rows with `columns` and `label`.
            tokenizer: the model's.
            max_length: tokens to keep of a row, special ones included; a pair loses those of its longer text
                first.

        Returns:
            The columns of the tokenizer (input_ids, attention_mask, perhaps token_type_ids), `labels` (class
            index, or float) and `length` (tokens).

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes.
        """
        check_length(max_length, tokenizer)
        columns, label = self.columns, self.label  # not `self`: `map` hashes what its function holds

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = (batch[column] for column in columns)
            encoded = tokenizer(*texts, truncation=True, max_length=max_length)
            return {**encoded, "labels": batch[label], "length": [len(ids) for ids in encoded["input_ids"]]}

        return split.map(tokens, batched=True, remove_columns=split.column_names, desc="tokenize")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score by name: those in `CLASS_METRICS`, or in `SCORE_METRICS` for regression.

        `f1` is that of class 1 where there are two classes, else the plain mean over the classes that occur.
        `pearson_spearman` is the mean of the two. What is undefined, such as the correlation of a constant
        prediction, is 0.0.

        Args:
            prediction: logits `(rows, labels)`, alone or first of a tuple, and labels `(rows,)`.
        """
        outputs = prediction.predictions
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        wanted = np.asarray(prediction.label_ids)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn and scipy warn of constants, which the docstring covers
            if self.labels is None:
                return _score_metrics(logits.reshape(-1), wanted)
            return _class_metrics(logits.argmax(-1), wanted, binary=len(self.labels) == 2)


def _prepare(splits: DatasetDict, text: Sequence[str] | None, label: str | None) -> DatasetDict:
    """The splits with the columns in use, text first and label last, without gaps, classes by index."""
    shared = shared_columns(splits)
    columns = _text_columns(shared, text)
    label = _label_column(shared, label)
    if label in columns:
        raise UserError(f"column {label!r} is both text and label: name another by `text` or `label`")
    splits = splits.select_columns([*columns, label])
    for name, split in splits.items():
        _check_text(name, split, columns)
        _check_gaps(name, split, columns, label)
    if splits["train"].features[label] == Value("bool"):
        splits = splits.cast_column(label, Value("string"))
    return splits.cast_column(label, _label_feature(splits, label))


def _text_columns(shared: Sequence[str], text: Sequence[str] | None) -> tuple[str, ...]:
    asked = (text,) if isinstance(text, str) else tuple(text or ())
    if len(asked) > 2:
        raise UserError(f"`text` names {len(asked)} columns: name one, or two for a pair of texts")
    for columns in [asked] if asked else TEXTS:
        if set(columns) <= set(shared):
            return columns
    raise no_column("text", asked, shared)


def _label_column(shared: Sequence[str], label: str | None) -> str:
    for column in [label] if label else LABELS:
        if column in shared:
            return column
    raise no_column("label", [label] if label else [], shared)


def _check_text(name: str, split: Dataset, columns: Sequence[str]) -> None:
    for column in columns:
        dtype = _dtype(split.features[column])
        if dtype not in ("string", "large_string", "null"):
            raise UserError(f"column {column!r} of the {name} split holds {dtype}: name one of text by `text`")
        if not any(split[column][:]):
            raise UserError(f"column {column!r} of the {name} split is empty: name another by `text`")


def _check_gaps(name: str, split: Dataset, columns: Sequence[str], label: str) -> None:
    """A text is missing if it is None or all texts of its row are blank: QQP has pairs with a blank half."""
    texts = zip(*(split[column][:] for column in columns), strict=True)
    unlabelled = [_is_missing(value) for value in split[label][:]]
    if all(unlabelled):
        raise UserError(f"column {label!r} of the {name} split is empty: name another by `label`")
    gaps = [
        index
        for index, (row, no_label) in enumerate(zip(texts, unlabelled, strict=True))
        if no_label or None in row or not any(map(str.strip, row))
    ]
    if gaps:
        raise UserError(
            f"{len(gaps)} of the {len(split)} rows of the {name} split lack a text or a label "
            f"(the first is row {gaps[0]}, counted from 0; a class of -1 is no label, nor is an infinite score): "
            "fill or remove them"
        )


def _is_missing(label: Any) -> bool:
    """None, no finite float32, nothing, or a negative class: SNLI has -1 where its annotators did not agree."""
    if isinstance(label, float):
        return not abs(label) <= MOST_SCORE
    return label is None or label == "" or (isinstance(label, int) and label < 0)


def _label_feature(splits: DatasetDict, label: str) -> ClassLabel | Value:
    """Whether the labels are classes, and which, or scores.

    Raises:
        UserError: the splits write their labels in different ways, or not as classes or scores at all.
    """
    features = [split.features[label] for split in splits.values()]
    kinds = {_label_kind(feature) for feature in features}
    named = [feature for feature in features if isinstance(feature, ClassLabel)]
    if kinds in ({"float"}, {"float", "int"}):
        return Value("float32")
    if kinds == {"string"}:
        found = {value for split in splits.values() for value in split[label]}
        check_count(len(found), label)
        return ClassLabel(names=sorted(found))
    if kinds == {"int"}:
        highest = max(value for split in splits.values() for value in split[label])
        check_count(highest + 1, label)
        return ClassLabel(names=[f"LABEL_{index}" for index in range(highest + 1)])
    if kinds <= {"class", "int"} and all(feature == named[0] for feature in named):
        return named[0]
    said = " and ".join(dict.fromkeys(map(_dtype, features)))
    raise UserError(f"the labels in {label!r} are {said}: make all of them strings, integers or decimals")


def _label_kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return "class"
    return next((kind for kind in ("int", "float", "string") if kind in _dtype(feature)), "other")


def _dtype(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return f"the classes {listed(feature.names)}"
    return feature.dtype if isinstance(feature, Value) else "lists or records"


def _check_classes(splits: DatasetDict, label: str) -> None:
    feature = splits["train"].features[label]
    seen, met = (set(splits[name][label][:]) for name in ("train", "validation"))
    if len(seen) == 1:
        raise UserError(f"all training rows have the same label in {label!r}: give data with at least two")
    if isinstance(feature, ClassLabel) and met - seen:
        unseen = listed([feature.names[index] for index in sorted(met - seen)])
        raise UserError(
            f"validation has labels that no training row has ({unseen}): add training rows, or remove these"
        )


def _choose_metric(metric: str | None, labels: tuple[str, ...] | None) -> str:
    known = SCORE_METRICS if labels is None else CLASS_METRICS
    if metric is not None and metric not in known:
        kind = "regression" if labels is None else "classes"
        raise UserError(f"metric {metric!r} is not known for {kind}: choose one of {', '.join(known)}")
    return metric or known[0]


def _class_metrics(predicted: NDArray[Any], wanted: NDArray[Any], binary: bool) -> dict[str, float]:
    f1 = f1_score(wanted, predicted, labels=[1] if binary else None, average="macro", zero_division=0.0)
    return {
        "accuracy": float((predicted == wanted).mean()),
        "f1": float(f1),
        "matthews": float(matthews_corrcoef(wanted, predicted)),
    }


def _score_metrics(predicted: NDArray[Any], wanted: NDArray[Any]) -> dict[str, float]:
    if len(wanted) < 2:
        return dict.fromkeys(SCORE_METRICS, 0.0)
    pearson = float(np.nan_to_num(pearsonr(predicted, wanted).statistic))
    spearman = float(np.nan_to_num(spearmanr(predicted, wanted).statistic))
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
