"""Token classification: a tag for each word of a sentence, such as named entities (CoNLL-2003) or parts of speech."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    AutoModelForTokenClassification,
    BatchEncoding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError
from secateur.tasks import predictors, register
from secateur.tasks.class_scores import ClassScore, of_classes, of_entities
from secateur.tasks.columns import listed, with_fields
from secateur.tasks.labelled import LabelledTask
from secateur.tasks.labels import only_numbered
from secateur.tasks.predictors import Predictor
from secateur.tasks.rows import check_length
from secateur.tasks.splits import read_splits
from secateur.tasks.tag_schemes import OUTSIDE, common_tags
from secateur.tasks.tag_scores import common_marks, constant_score, marked, tag_scores
from secateur.tasks.task import PaddingCollator, Task
from secateur.tasks.token_data import TAGS, check_named, check_tags, prepare
from secateur.tasks.tokenizer_settings import kept_settings

log = logging.getLogger(__name__)

ENTITY_METRICS = ("f1", "precision", "recall", "accuracy")  # the first is the default
WORD_METRICS = ("accuracy",)
CUT_OFF = "words_cut_off"


class TokenCollator(PaddingCollator):
    """Pads model inputs, and labels with -100; drops the columns that only `score` reads."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        dropped = ("labels", "tags", "seen")
        batch = super().__call__([{k: v for k, v in row.items() if k not in dropped} for row in features])
        if all("labels" in row for row in features):
            batch["labels"] = self._padded([row["labels"] for row in features], batch["input_ids"].shape[1])
        return batch

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """`(batch, width)`, padded on the same side as the inputs."""
        padded = []
        for row in rows:
            padding = [UNLABELLED] * (width - len(row))
            padded.append([*padding, *row] if self.tokenizer.padding_side == "left" else [*row, *padding])
        return torch.tensor(padded)


@register("tokens")
@dataclass(frozen=True, eq=False, repr=False)
class Tokens(LabelledTask):
    """A tag for every word of a sentence: named entities (CoNLL, tags in BIO) or parts of speech.

    Attributes:
        splits: "train" and "validation", with only the columns `words` and `label`: lists of one length; a tag is its
            index in `labels`.
        words: the column of words.
        label: the column of tags.
        labels: the names of the tags, in the order of the head's outputs.
        metric: the main score: one of `ENTITY_METRICS`, or of `WORD_METRICS` if the tags do not mark entities.
        asked_metric: the main score that the user has named, if any.
    """

    model_class: ClassVar[Any] = AutoModelForTokenClassification
    predictor: ClassVar[Predictor | None] = predictors.TAGS
    collator_class: ClassVar[type[PaddingCollator]] = TokenCollator

    splits: DatasetDict
    words: str
    label: str
    labels: tuple[str, ...]
    metric: str
    asked_metric: str | None = None

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
    ) -> Tokens:
        """Read `data` (see `read_splits`) and recognise its columns and tags.

        Tags that are strings are sorted by kind of entity, O first and B before I; integers have the names that
        the data or `labels` has for them, or else LABEL_0, LABEL_1, ..., until `fitted` takes the names of a model.

        Args:
            data: a name on the hub, a folder or a file (parquet or json: a cell of csv cannot hold a list).
            text: the column of words; by default the first of `WORDS` that exists.
            label: the column of tags; by default the first of `TAGS` that exists.
            labels: the tags in the order of the head's outputs, or names for integers from 0.
            metric: the main score; by default f1 of whole entities, or accuracy if the tags do not mark entities.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`.

        Raises:
            UserError: the data cannot be read; a column is missing or holds no lists; a row is empty, has a gap, or
                more or fewer tags than words; there is only one tag; validation has a tag that training lacks; the
                metric is unknown; `rows` < 1.
        """
        prepared = partial(prepare, text=text, label=label, labels=labels)
        candidates = (label,) if label else TAGS
        splits = read_splits(
            data, validation=validation, label=candidates, each=with_fields, prepare=prepared, seed=seed
        )
        words, tags = splits["train"].column_names
        names = tuple(splits["train"].features[tags].feature.names)
        check_tags(splits, tags, names)
        return cls(splits, words, tags, names, _choose_metric(metric, names), metric).with_first_rows(rows, seed)

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """As `LabelledTask.fitted`; the names of a model's tags also decide whether entities or words are scored.

        Raises:
            UserError: as there; or the tags in a column of entities (ner, ner_tags) are integers, and neither the data
                nor the model has names for them.
        """
        task = cast("Tokens", super().fitted(model_or_folder, role))
        check_named(task.label, task.labels)
        metric = _choose_metric(task.asked_metric, task.labels, named=True)
        return task if metric == task.metric else replace(task, metric=metric)

    def only_answer(self, split: str) -> str | None:
        tags = {tag for row in self.splits[split][self.label] for tag in row}
        return f"the tag {self.labels[tags.pop()]} for every word" if len(tags) == 1 else None

    def head(self) -> dict[str, Any]:
        check_named(self.label, self.labels)
        return super().head()

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded.

        A tokenizer that distinguishes words by the space before them is set to add one before the first word too. The
        setting stays, and is saved with the tokenizer, so that it later treats a text as it does here.

        Args:
            split: rows with `words` and `label`.
            tokenizer: the model's; a fast one.
            max_length: tokens to keep of a row, special ones included; the words after them are cut off.

        Returns:
            The columns of the tokenizer; `labels`, the tag at the first token of a word and -100 elsewhere;
            `length` (tokens); and, for `score`, `tags` of all words and `seen`, the indices of the words with a label.

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes, or the tokenizer is a slow one.
        """
        check_length(max_length, tokenizer)
        mark_first_word(tokenizer)
        words, label = self.words, self.label  # not `self`: `map` hashes what its function refers to

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = tokenizer(batch[words], is_split_into_words=True, truncation=True, max_length=max_length)
            first = [first_tokens(encoded, row) for row in range(len(batch[words]))]
            lengths = [len(ids) for ids in encoded["input_ids"]]
            labels = [_labels(*row) for row in zip(first, batch[label], lengths, strict=True)]
            seen = [list(tokens_of_words) for tokens_of_words in first]
            return {**encoded, "labels": labels, "length": lengths, "tags": batch[label], "seen": seen}

        with kept_settings(tokenizer):
            return split.map(tokens, batched=True, remove_columns=split.column_names, desc="tokenize")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score by name, over the words that the model sees: `ENTITY_METRICS`, or `WORD_METRICS`.

        f1, precision and recall are those of whole entities, over all kinds together, by the rules of conlleval (the
        default of seqeval): an entity is right if its kind, its first and its last word are. Tags are in any
        scheme of `tag_schemes`. What is undefined, such as the precision over no entity, is 0.0. accuracy is that of
        words.

        Args:
            prediction: logits `(rows, tokens, labels)`, alone or first of a tuple, and labels `(rows, tokens)`.
        """
        gold = [list(row[row != UNLABELLED]) for row in np.asarray(prediction.label_ids)]
        return self._metrics(gold, _predicted(prediction))

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The best score of one answer for all words (`constant_score`): the commonest tag, or words as entities."""
        true = [[self.labels[tag] for tag in row["tags"]] for row in rows]
        return constant_score(true, [row["seen"] for row in rows], self.labels, self.metric)

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """As `compute_metrics`, but over all words; the prediction for a word that the model does not see is O.

        `words_cut_off` is the number of these words, which are beyond `max_length` or have no token.
        """
        predicted = _of_all_words(prediction, rows)
        scores = self._metrics([row["tags"] for row in rows], predicted)
        return {**scores, CUT_OFF: sum(tag is None for row in predicted for tag in row)}

    def class_scores(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> list[ClassScore]:
        """Those of each kind of entity, over all words; of each tag of words where tags mark no entities."""
        gold, predicted = [row["tags"] for row in rows], _of_all_words(prediction, rows)
        marks = common_marks(self.labels)
        if marks is None:
            said = [-1 if tag is None else tag for row in predicted for tag in row]
            return of_classes(np.array(said), np.array([tag for row in gold for tag in row]), self.labels)
        return of_entities(*(marked(tags, marks) for tags in self._named(gold, predicted)))

    def _metrics(self, gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int | None]]) -> dict[str, float]:
        """The scores of tags, by index, of each sentence; None is a word without a prediction."""
        true, guess = self._named(gold, predicted)
        return tag_scores(true, guess, self.labels)

    def _named(self, *tags: Sequence[Sequence[int | None]]) -> list[list[list[str]]]:
        """Tags by name; a word without a prediction is O."""
        return [[[OUTSIDE if tag is None else self.labels[tag] for tag in row] for row in rows] for rows in tags]


def _choose_metric(metric: str | None, labels: Sequence[str], named: bool = False) -> str:
    """The metric that the user has named, or the first; tags without names may still be `named` by a model."""
    if metric in ENTITY_METRICS and only_numbered(labels) and not named:
        return metric
    known = WORD_METRICS if common_tags(labels) is None else ENTITY_METRICS
    if known is WORD_METRICS and OUTSIDE in labels:
        log.info("the tags (%s) mark entities in no known scheme, such as BIO: words are scored singly", listed(labels))
    if metric is not None and metric not in known:
        kind = "entities" if known is ENTITY_METRICS else "tags that do not mark entities (O, B-X, I-X)"
        raise UserError(f"metric {metric!r} is not known for {kind}: choose one of {', '.join(known)}")
    return metric or known[0]


def mark_first_word(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a byte-level tokenizer (RoBERTa) add a space before every word of a list; other tokenizers need none.

    Raises:
        UserError: the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise UserError("the tokenizer does not report which word a token is of: give a model with a fast tokenizer")
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, ByteLevel) and not backend.pre_tokenizer.add_prefix_space:
        backend.pre_tokenizer.add_prefix_space = True
        tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True  # for saving and loading


def first_tokens(encoded: BatchEncoding, row: int) -> dict[int, int]:
    """Index of a word -> index of its first token, for the words of a row that have one."""
    first: dict[int, int] = {}
    for token, word in enumerate(encoded.word_ids(row)):
        if word is not None:
            first.setdefault(word, token)
    return first


def _labels(first_tokens: Mapping[int, int], tags: Sequence[int], length: int) -> list[int]:
    """`length` labels: the tag of each word at its first token."""
    labels = [UNLABELLED] * length
    for word, token in first_tokens.items():
        labels[token] = tags[word]
    return labels


def _of_all_words(prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> list[list[int | None]]:
    """The predicted tag of every word of every row; None for a word that the model does not see."""
    predicted = []
    for row, tags in zip(rows, _predicted(prediction), strict=True):
        seen = dict(zip(row["seen"], tags, strict=True))
        predicted.append([seen.get(word) for word in range(len(row["tags"]))])
    return predicted


def _predicted(prediction: EvalPrediction) -> list[list[int]]:
    """The most likely tag at every label of every row."""
    outputs = prediction.predictions
    logits: NDArray[Any] = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
    labels = np.asarray(prediction.label_ids)
    return [row[mask].tolist() for row, mask in zip(logits.argmax(-1), labels != UNLABELLED, strict=True)]
