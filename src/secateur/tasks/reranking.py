"""Reranking: a cross-encoder scores pairs of a query and a passage, by which the passages of a query are ordered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from scipy.stats import spearmanr
from transformers import (
    AutoModelForSequenceClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.structure.encoded_rows import EXAMPLE
from secateur.surgery.cross_encoders import IDENTITY, with_named_activation
from secateur.system.errors import UserError
from secateur.system.packages import require
from secateur.tasks import predictors, register
from secateur.tasks.checkpoint_labels import config_of
from secateur.tasks.columns import with_fields
from secateur.tasks.compared_task import ComparedTask
from secateur.tasks.one_output import REGRESSION, SIGMOID, are_probabilities, has_sigmoid
from secateur.tasks.predictors import Predictor
from secateur.tasks.reranking_data import DRAWN, LABEL, LABELS, LISTED, QUERY, find_columns, prepare, with_drawn
from secateur.tasks.reranking_reference import NUMBER, PAIR, Reference, check_prompt, check_reference, numbered
from secateur.tasks.reranking_scores import MRR, NDCG, random_order, ranking_scores
from secateur.tasks.rows import check_length
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import PaddingCollator, Task, examples
from secateur.tasks.tokenizer_settings import kept_settings

SPEARMAN = "spearman"
MOST_TOKENS = 128
"""Tokens to keep of a pair, unless the user names another number."""
RELEVANT = 0.5
"""A passage whose label is larger is relevant, unless the user names another number."""


class PairCollator(PaddingCollator):
    """Pads pairs; drops what identifies them, which models do not take."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([{k: v for k, v in row.items() if k != PAIR} for row in features])


@register("reranking")
@dataclass(frozen=True, eq=False, repr=False)
class Reranking(ComparedTask):
    """How relevant a passage is to a query: one output for a pair, as a `CrossEncoder` of sentence-transformers has.

    Attributes:
        splits: "train" and "validation", with the columns of `reranking_data.SPLIT`: one row for each query.
        metric: the main score: `MRR`, `NDCG` or `SPEARMAN`.
        labelled: whether the data says which passages are relevant. Otherwise a teacher scores the pairs, and each
            query's own passage stands for the relevant one.
        reference: the model with whose scores outputs are compared where there are no labels.
        relevant: passages whose label is larger are relevant.
        sigmoid: whether labels are compared with the sigmoid of the one output, as `fitted` finds out.
        labels: None, because the output of the head has no name.
    """

    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    predictor: ClassVar[Predictor | None] = predictors.RELEVANCE
    collator_class: ClassVar[type[PaddingCollator]] = PairCollator
    defaults: ClassVar[Mapping[str, Any]] = {"measurement.shapes": ((1, 128), (32, 128))}

    splits: DatasetDict
    metric: str
    labelled: bool = True
    relevant: float = RELEVANT
    sigmoid: bool = False
    reference: str | None = None
    labels: tuple[str, ...] | None = None

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
        validation: str | None = None,
        negatives: int | None = None,
        relevant: float = RELEVANT,
        reference: str | None = None,
    ) -> Reranking:
        """Read `data` (see `read_splits`): pairs with labels, queries with lists of passages, or pairs alone.

        Rows of the same query are one list. Where every passage is one of its query, because there are neither labels
        nor negatives, passages of other queries are drawn by the seed.

        Args:
            data: a name on the hub, a folder or a file.
            text, label: the columns, as for `reranking_data.prepare`.
            metric: the main score; by default `MRR`, or `SPEARMAN` where there are no labels, or no query has passages
                of both kinds.
            seed: chooses the queries of a validation split that the data lacks, those that `rows` keeps, and the
                passages that are drawn.
            rows: how many training queries to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`.
            negatives: passages to draw for each query; by default 4.
            relevant: as the attribute.
            reference: as the attribute; by default the teacher. Where there are labels it is not used.

        Raises:
            UserError: the data cannot be read; a column is missing; a row is incomplete; passages cannot be drawn, or
                need not be; an option is out of range; the metric is unknown; the reference does not score pairs.
            MissingPackage: sentence-transformers is not installed.
        """
        require(("sentence_transformers",), "embeddings")
        _check_options(metric, negatives, relevant)
        prepared, candidates = partial(prepare, text=text, label=label), (label,) if label else LABELS
        splits = read_splits(
            data,
            validation=validation,
            label=candidates,
            target=LABEL,
            each=with_fields,
            prepare=prepared,
            seed=seed,
        )
        columns = find_columns(splits.origin.columns, text, label)
        if columns.drawn:
            for key in splits:
                splits[key] = with_drawn(splits[key], negatives or DRAWN, seed)
        elif negatives is not None:
            raise UserError("the data says which passages are not relevant: leave out the task's option negatives")
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        if not columns.labelled:
            numbered(splits)
        ranked = any(_both_kinds(own, relevant) for own in splits["validation"][LABEL])
        main = _choose_metric(metric, ranked, relevant, columns.labelled)
        task = cls(splits, main, columns.labelled, relevant, reference=reference)
        if reference is not None and not columns.labelled:
            check_reference(task, reference)
        return replace(task, sigmoid=are_probabilities(task._numbers()))

    def head(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": SIGMOID if self.sigmoid else REGRESSION}

    def load_model(self, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
        """As `Task.load_model`; a new head for numbers is one without a sigmoid for a `CrossEncoder` too.

        Raises:
            UserError: as there; or as `adapt`.
        """
        check_prompt(str(name_or_path))
        model = super().load_model(name_or_path, **kwargs)
        new = not self._has_head(config_of(name_or_path))
        return with_named_activation(model, IDENTITY) if new and not self.sigmoid else model

    def adapt(self, model: PreTrainedModel, name: str, *, asked: bool = True) -> None:
        """Nothing: no option says anything about a model.

        Raises:
            UserError: the model is a cross-encoder that puts a prompt before its texts.
        """
        check_prompt(name)

    def with_reference(self, name: str) -> Reranking:
        return self if self.reference else replace(self, reference=name)

    def check_scored(self) -> None:
        if self.metric == SPEARMAN and not self.labelled and self.reference is None:
            raise UserError(
                "scores of pairs without labels are compared with those of a reference: name it by --task-option "
                "reference=MODEL, or choose another metric"
            )

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """The task with its labels compared with the one output as a checkpoint means it (see `one_output`).

        Raises:
            UserError: the checkpoint has no head, and the data no labels to train one by.
        """
        config = config_of(model_or_folder)
        if not self._has_head(config) and not self.labelled:
            raise UserError(
                f"the {role} has no head that scores pairs, and the data no labels to train one by: give a "
                "cross-encoder, or name the column of labels by --label"
            )
        if not self._has_head(config) or config.num_labels != 1:
            return self
        fitted = replace(self, sigmoid=has_sigmoid(config, self._numbers(), LABEL))
        return fitted if isinstance(model_or_folder, PreTrainedModel) else fitted.with_reference(str(model_or_folder))

    def only_answer(self, split: str) -> str | None:
        labels = {number for own in self.splits[split][LABEL] for number in own}
        return f"the label {labels.pop():g} for every pair" if self.labelled and len(labels) == 1 else None

    def described(self) -> dict[str, str]:
        """The columns, the numbers of queries and of pairs, and what labels are."""
        counts = {
            self.origin.name(key): (len(split), sum(map(len, split[LABEL]))) for key, split in self.splits.items()
        }
        pairs = [f"{queries:,} queries with {pairs:,} passages ({name})" for name, (queries, pairs) in counts.items()]
        what = "numbers" if self.labelled else "none: the teacher scores the pairs"
        return super().described() | {"pairs": ", ".join(pairs), "labels": what}

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = MOST_TOKENS) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded, one row for each pair.

        Args:
            split: rows with the columns of `reranking_data.SPLIT`.
            tokenizer: the model's.
            max_length: tokens to keep of a pair, special ones included; the longer text loses its last ones first.

        Returns:
            The columns of the tokenizer (input_ids, attention_mask, perhaps token_type_ids), `labels` (a float, or for
            a sigmoid a list of a float), `example`, the index of the row in the split, `length` (tokens), and without
            labels in the data `pair`, the number of the query, the place of the passage and `max_length`.

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes.
        """
        check_length(max_length, tokenizer)
        sigmoid = self.sigmoid  # not `self`: `map` hashes what its function refers to

        def pairs(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            counts = list(map(len, batch[LISTED]))
            queries = [query for query, count in zip(batch[QUERY], counts, strict=True) for _ in range(count)]
            passages = [passage for own in batch[LISTED] for passage in own]
            labels = [number for own in batch[LABEL] for number in own]
            encoded = tokenizer(queries, passages, truncation=True, max_length=max_length)
            named = {PAIR: _pairs(batch[NUMBER], counts, max_length)} if NUMBER in batch else {}
            return {
                **encoded,
                **named,
                "labels": [[number] for number in labels] if sigmoid else labels,
                EXAMPLE: [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)],
                "length": [len(ids) for ids in encoded["input_ids"]],
            }

        with kept_settings(tokenizer):
            return split.map(pairs, batched=True, with_indices=True, remove_columns=split.column_names, desc="tokenize")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """As `score`, of the scored pairs in their order."""
        split = self.splits["validation"]
        counts = list(map(len, split[LABEL]))
        rows: list[dict[str, Any]] = [{EXAMPLE: number} for number, count in enumerate(counts) for _ in range(count)]
        if not self.labelled:
            pairs = _pairs(split[NUMBER], counts, MOST_TOKENS)
            rows = [{**row, PAIR: pair} for row, pair in zip(rows, pairs, strict=True)]
        return self.score(prediction, rows)

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`MRR` and `NDCG` within the list of each query that has passages of both kinds, and `SPEARMAN` of all pairs.

        `SPEARMAN` is the correlation with the labels, or with the scores of the reference where there are none; that of
        a constant is 0.0. Rankings are left out where no query has both kinds.

        Args:
            prediction: logits `(pairs, 1)`, alone or first of a tuple, and labels `(pairs,)` or `(pairs, 1)`.
            rows: the encoded pairs, with `example`, and with `pair` where there are no labels.

        Raises:
            UserError: there are neither labels nor a reference.
        """
        self.check_scored()
        outputs = prediction.predictions
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs).reshape(-1).astype(np.float64)
        labels = np.asarray(prediction.label_ids).reshape(-1).astype(np.float64)
        lists = [(logits[own], labels[own] > _as_label(self.relevant)) for own in examples(rows)]
        ranked = [(scores, own) for scores, own in lists if own.any() and not own.all()]
        found = ranking_scores(ranked) if ranked or self.metric != SPEARMAN else {}
        if self.labelled or self.reference is not None or self.metric == SPEARMAN:
            found[SPEARMAN] = _spearman(logits, labels if self.labelled else self._of_reference(rows))
        return found

    def _of_reference(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
        """The scores `(pairs,)` of the reference."""
        assert self._reference is not None, "`check_scored` has refused it"
        return self._reference.scores([(number, place, most) for number, place, most in (row[PAIR] for row in rows)])

    @cached_property
    def _reference(self) -> Reference | None:
        return None if self.reference is None else Reference(self.reference, self.splits)

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The expected score of a random order; 0.0 for `SPEARMAN`. None where no query has passages of both kinds."""
        if self.metric == SPEARMAN:
            return 0.0
        labels = np.array([row["labels"] for row in rows], dtype=np.float64).reshape(-1)
        lists = [labels[own] > _as_label(self.relevant) for own in examples(rows)]
        ranked = [own for own in lists if own.any() and not own.all()]
        return random_order(self.metric, ranked) if ranked else None

    def _numbers(self) -> Iterator[float]:
        """The labels of all pairs."""
        return (number for split in self.splits.values() for own in split[LABEL] for number in own)


def _pairs(numbers: Sequence[int], counts: Sequence[int], most: int) -> list[list[int]]:
    """`PAIR` of each passage of queries with these numbers, and these numbers of passages, cut to `most` tokens."""
    return [[number, place, most] for number, count in zip(numbers, counts, strict=True) for place in range(count)]


def _both_kinds(labels: Sequence[float], relevant: float) -> bool:
    """Whether some of the passages of a query are relevant, and not all."""
    return min(labels) <= _as_label(relevant) < max(labels)


def _as_label(number: float) -> float:
    """A number as a label that is equal to it is kept, in float32."""
    return float(np.float32(number))


def _spearman(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    if len(labels) < 2 or not (np.ptp(labels) and np.ptp(logits)):
        return 0.0
    return float(np.nan_to_num(spearmanr(logits, labels).statistic))


def _choose_metric(metric: str | None, ranked: bool, relevant: float, labelled: bool) -> str:
    if metric in (MRR, NDCG) and not ranked:
        raise UserError(
            f"{metric} needs queries with passages that are relevant, whose label is over {relevant:g}, and others: "
            f"take {SPEARMAN}, or set the task's option relevant"
        )
    return metric or (MRR if ranked and labelled else SPEARMAN)


def _check_options(metric: str | None, negatives: Any, relevant: Any) -> None:
    known = (MRR, NDCG, SPEARMAN)
    if metric is not None and metric not in known:
        raise UserError(f"metric {metric!r} is not known for reranking: choose one of {', '.join(known)}")
    if negatives is not None and (not isinstance(negatives, int) or isinstance(negatives, bool) or negatives < 1):
        raise UserError(f"negatives is {negatives!r}: give a whole number of passages to draw, at least 1")
    if isinstance(relevant, bool) or not isinstance(relevant, int | float):
        raise UserError(f"relevant is {relevant!r}: give a number, over which the label of a relevant passage is")
