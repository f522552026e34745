"""Extractive question answering: the span of a context that answers a question, as in SQuAD 1.1 and 2.0.

A context that is too long for a model is split into windows (`windows`). The outputs for all windows of a question are
combined into one prediction (`window_outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForQuestionAnswering, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.encoded_rows import EXAMPLE
from secateur.system.errors import UserError
from secateur.tasks import predictors, register
from secateur.tasks.answers import Answer, exact_match, f1, first_words, normalise, ranked
from secateur.tasks.predictors import Predictor
from secateur.tasks.question_data import ANSWERS, prepare
from secateur.tasks.rows import check_length
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import PaddingCollator, Task, examples
from secateur.tasks.window_outputs import WindowOutput, combined, outputs_of, token_scores
from secateur.tasks.windows import WindowCollator, features, positions, windows

METRICS = ("f1", "exact_match")  # the first is the default
MOST = 20
"""Answers that are kept for a window and for a question (n-best of the script for SQuAD of Devlin et al.)."""

BLIND = (1, 2, 4, 8, 16)
"""Numbers of words of an answer that is the same part of any context (`Questions.baseline`)."""


@register("questions")
@dataclass(frozen=True, eq=False, repr=False)
class Questions(Task):
    """The span of a context that answers a question (SQuAD 1.1), or "no answer" (SQuAD 2.0).

    Attributes:
        splits: "train" and "validation", with the columns of `SPLIT`.
        metric: the main score, one of `METRICS`.
        unanswerable: whether the data has questions that have no answer in their context.
        doc_stride: tokens of the context that two windows share; None for a third of `max_length`.
        max_answer_length: most tokens of a predicted answer.
        null_threshold: "no answer" is predicted if the score of [CLS] exceeds that of the best answer by more than
            this; scores are sums of two logits. If all questions of the data have an answer, one is always predicted.
        labels: None, because the outputs of the head have no names.
    """

    model_class: ClassVar[Any] = AutoModelForQuestionAnswering
    predictor: ClassVar[Predictor | None] = predictors.ANSWERS
    collator_class: ClassVar[type[PaddingCollator]] = WindowCollator
    windows: ClassVar[bool] = True
    label_names: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")
    defaults: ClassVar[Mapping[str, Any]] = {"data.max_length": 384, "measurement.shapes": ((1, 128), (8, 384))}

    splits: DatasetDict
    metric: str
    unanswerable: bool
    doc_stride: int | None = None
    max_answer_length: int = 30
    null_threshold: float = 0.0
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
        doc_stride: int | None = None,
        max_answer_length: int = 30,
        null_threshold: float = 0.0,
    ) -> Questions:
        """Read `data` (see `read_splits`): rows as on the hub, SQuAD's nested JSON, or a table with one answer a row.

        Answers are records of `text` and `answer_start` (characters), alone or in lists; in csv they are a column of
        text and a column `answer_start`. A question has no answer in its context if it has no records, or if
        `is_impossible` is true. Without a validation split, the questions of a tenth of the contexts become it.

        Args:
            data: a name on the hub, a folder or a file.
            text: the columns of the question and of the context; by default the first of `TEXTS` that exist.
            label: the column of answers; by default the first of `ANSWERS` that exists.
            metric: the main score; by default f1.
            seed: chooses the contexts of a validation split that the data lacks, and the rows that `rows` keeps.
            rows: how many training questions to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`.
            doc_stride, max_answer_length, null_threshold: as the attributes.

        Raises:
            UserError: the data cannot be read; a column is missing; a question or a context is empty; an answer is not
                in its context at the given character; no question of a split has an answer; there is no validation
                split and all questions have the same context; a number is out of range; the metric is unknown.
        """
        _check_options(metric, doc_stride, max_answer_length, null_threshold)
        prepared = partial(prepare, text=text, label=label, seed=seed)
        candidates = (label,) if label else ANSWERS
        splits = read_splits(data, validation=validation, label=candidates, prepare=prepared, seed=seed)
        unanswerable = any(not answers for split in splits.values() for answers in split["answers"])
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        metric = metric or METRICS[0]
        return cls(splits, metric, unanswerable, doc_stride, max_answer_length, null_threshold)

    def head(self) -> dict[str, Any]:
        return {"num_labels": 2}

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 384) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded, one row for each window.

        Training rows are labelled with the first of their gold answers.

        Args:
            split: rows with the columns of `SPLIT`.
            tokenizer: the model's; a fast one.
            max_length: tokens of a window, question and special ones included; a question has at most a third.

        Returns:
            The columns of the tokenizer; `start_positions` and `end_positions` (see `positions`); `length` (tokens);
            and, for `score`, `example`, the index of the row in the split, `offsets`, `nothing` (see `windows`),
            `context` and `answers`.

        Raises:
            UserError: as `windows` does.
        """
        overlap = self.doc_stride

        def rows(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            encoded = windows(tokenizer, batch["question"], batch["context"], max_length, overlap)
            own = encoded[EXAMPLE]
            starts, ends = positions(encoded, batch["answers"], batch["starts"])
            return {
                **encoded,
                EXAMPLE: [numbers[question] for question in own],
                "start_positions": starts,
                "end_positions": ends,
                "length": [len(ids) for ids in encoded["input_ids"]],
                "context": [batch["context"][question] for question in own],
                "answers": [batch["answers"][question] for question in own],
            }

        return split.map(
            rows,
            batched=True,
            with_indices=True,
            remove_columns=split.column_names,
            features=features(tokenizer),
            desc="tokenize",
        )

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """f1 and exact_match over the tokens of each window, as they can be computed without its text.

        The best span of all tokens, special ones included, is compared with the labelled span.

        Args:
            prediction: start and end logits, `(rows, tokens)` each, and labels, `(rows,)` each.
        """
        scores = [
            token_scores(*row, longest=self.max_answer_length)
            for row in zip(*prediction.predictions[:2], *prediction.label_ids, strict=True)
        ]
        return dict(zip(METRICS, map(float, np.mean(scores, axis=0)), strict=True))

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`METRICS` in [0, 1]: the best over the gold answers, averaged over the questions.

        If the data has questions without an answer, also the averages over the questions with an answer and over those
        without (`has_answer_f1`, `has_answer_exact_match`, `no_answer_exact_match`; 0.0 over none).
        """
        logits = list(zip(*map(np.asarray, prediction.predictions[:2]), strict=True))
        questions = []
        for windows_of_question in examples(rows):
            text = self._predicted([(*logits[window], rows[window]) for window in windows_of_question])
            answers = rows[windows_of_question[0]]["answers"]
            golds = self._golds(answers)
            questions.append((f1(text, golds), exact_match(text, golds), bool(answers)))
        scores = dict(zip(METRICS, _averages(questions), strict=True))
        if not self.unanswerable:
            return scores
        with_answer, without = ([one for one in questions if one[2] is answered] for answered in (True, False))
        parts = zip(("has_answer_f1", "has_answer_exact_match"), _averages(with_answer), strict=True)
        return {**scores, **dict(parts), "no_answer_exact_match": _averages(without)[1]}

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The best score of one rule for all questions: no answer, or the first 1, 2, 4, ... words of the context."""
        asked = [rows[windows_of_question[0]] for windows_of_question in examples(rows)]
        golds = [self._golds(row["answers"]) for row in asked]
        guesses = [[first_words(row["context"], count) for row in asked] for count in BLIND]
        if self.unanswerable:
            guesses.append([""] * len(asked))
        measure = f1 if self.metric == "f1" else exact_match
        return max(float(np.mean([measure(*pair) for pair in zip(guess, golds, strict=True)])) for guess in guesses)

    def _predicted(self, outputs: Sequence[WindowOutput]) -> str:
        """The predicted answer to one question, from the outputs for its windows; "" for "no answer"."""
        spans, nothing = combined(outputs, 1, self.max_answer_length)
        best = ranked(outputs[0][2]["context"], spans, 1)
        if not best or (self.unanswerable and nothing - best[0].score > self.null_threshold):
            return ""
        return best[0].text

    def _golds(self, answers: Sequence[str]) -> list[str]:
        """The gold answers that the official script uses: that of SQuAD 2.0 drops those that normalise to nothing."""
        return [text for text in answers if normalise(text)] if self.unanswerable else list(answers)


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    *,
    most: int = 1,
    nothing: bool = False,
    max_length: int = 384,
    doc_stride: int | None = None,
    max_answer_length: int = 30,
    null_threshold: float = 0.0,
) -> list[Answer]:
    """A model's answers to a question, the best first; replaces the pipeline that transformers 5 has removed.

    Args:
        model: with a question-answering head, dense or compact; it runs in evaluation mode, and its mode is restored.
        tokenizer: the model's; a fast one.
        question: the question.
        context: the text that may hold its answer; a long one is split into windows.
        most: number of answers to return, 1 to 20.
        nothing: whether "no answer" may be one of the answers, for a model trained on such questions.
        max_length: tokens of a window, as in `Questions`.
        doc_stride: tokens that two windows share, as in `Questions`.
        max_answer_length: tokens of an answer at most, as in `Questions`.
        null_threshold: as in `Questions`; the score of "no answer" is given less it.

    Raises:
        UserError: the question or the context is empty, a number is out of range, or as `windows` does.
    """
    _check_options(None, doc_stride, max_answer_length, null_threshold)
    if not question.strip() or not context.strip():
        raise UserError("the question or the context is empty: give text for both")
    if not 1 <= most <= MOST:
        raise UserError(f"most is {most}: ask for 1 to {MOST} answers")
    check_length(max_length, model=model)
    encoded = windows(tokenizer, [question], [context], max_length, doc_stride)
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    spans, null = combined(outputs_of(model, tokenizer, rows), MOST, max_answer_length)
    return ranked(context, spans, most, null - null_threshold if nothing else None)


def _averages(questions: Sequence[tuple[float, float, bool]]) -> tuple[float, float]:
    """Average f1 and exact match of questions, 0.0 over none; the third value is whether a question has an answer."""
    if not questions:
        return 0.0, 0.0
    return float(np.mean([one[0] for one in questions])), float(np.mean([one[1] for one in questions]))


def _check_options(metric: str | None, doc_stride: Any, max_answer_length: Any, null_threshold: Any) -> None:
    if metric is not None and metric not in METRICS:
        raise UserError(f"metric {metric!r} is not known for questions: choose one of {', '.join(METRICS)}")
    for name, value, least in (("doc_stride", doc_stride, 0), ("max_answer_length", max_answer_length, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UserError(f"{name} is {value!r}: give a whole number of tokens, at least {least}")
    if isinstance(null_threshold, bool) or not isinstance(null_threshold, int | float):
        raise UserError(f"null_threshold is {null_threshold!r}: give a number, a difference of logits")
