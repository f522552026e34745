"""Extractive question answering: the part of a text that answers a question, as in SQuAD 1.1 and 2.0.

A text that is too long for a model is read in windows (`windows`). The outputs for all windows of a question make one
prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.system.errors import UserError
from secateur.tasks import register
from secateur.tasks.answers import Answer, Spans, best_spans, exact_match, f1, merged, normalise, ranked
from secateur.tasks.question_data import prepare
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import EXAMPLE, PaddingCollator, Task, examples
from secateur.tasks.windows import WindowCollator, features, positions, unpacked, windows

METRICS = ("f1", "exact_match")  # the first is the default
MOST = 20
"""Answers that are kept for a window and for a question (n-best of the script for SQuAD of Devlin et al.)."""
BATCH = 32
"""Windows in a batch when one question is answered."""
PADDING = -100.0
"""The value with which Trainer pads shorter batches of logits."""


WindowOutput: TypeAlias = tuple[Any, Any, Mapping[str, Any]]
"""Start logits `(tokens,)`, end logits `(tokens,)` and encoded row of one window."""


@register("questions")
@dataclass(frozen=True, eq=False)
class Questions(Task):
    """The part of a text that answers a question (SQuAD 1.1), or that there is none (SQuAD 2.0).

    Attributes:
        splits: "train" and "validation", with the columns of `SPLIT`.
        metric: the main score, one of `METRICS`.
        unanswerable: whether the data has questions that their context does not answer.
        doc_stride: tokens of the context that two windows share; None for a third of `max_length`.
        max_answer_length: most tokens of a predicted answer.
        null_threshold: no answer is predicted if the score of [CLS] is higher than that of the best answer by more than
            this; scores are sums of two logits. If all questions of the data have an answer, one is always predicted.
        labels: None, because the outputs of the head have no names.
    """

    model_class: ClassVar[Any] = AutoModelForQuestionAnswering
    collator_class: ClassVar[type[PaddingCollator]] = WindowCollator
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
        doc_stride: int | None = None,
        max_answer_length: int = 30,
        null_threshold: float = 0.0,
    ) -> Questions:
        """Read `data` (see `read_splits`): rows as on the hub, SQuAD's own nested JSON, or a table with one answer.

        Answers are records of `text` and `answer_start` (characters), alone or in lists; or a column of text and a
        column `answer_start`, as csv has it. No answers mean that the context does not answer the question, as does a
        true `is_impossible`. If there is no validation split, the questions of a tenth of the contexts become it.

        Args:
            data: a name on the hub, a folder or a file.
            text: the columns of the question and of the context; by default the first of `TEXTS` that exist.
            label: the column of answers; by default the first of `ANSWERS` that exists.
            metric: the main score; by default f1.
            seed: chooses the contexts of a validation split that the data lacks, and the rows that `rows` keeps.
            rows: how many training questions to keep, for a quick trial; all by default. Validation stays whole.
            doc_stride, max_answer_length, null_threshold: as the attributes.

        Raises:
            UserError: the data cannot be read; a column is missing; a question or a context is empty; an answer is not
                in its context at the given character; no question of a split has an answer; all questions of a split
                that has to be divided are of one context; a number is out of range; the metric is unknown.
        """
        _check_options(metric, doc_stride, max_answer_length, null_threshold)
        splits = read_splits(data, prepare=partial(prepare, text=text, label=label, seed=seed), seed=seed)
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
            found = windows(tokenizer, batch["question"], batch["context"], max_length, overlap)
            own = found[EXAMPLE]
            starts, ends = positions(found, batch["answers"], batch["starts"])
            return {
                **found,
                EXAMPLE: [numbers[question] for question in own],
                "start_positions": starts,
                "end_positions": ends,
                "length": [len(ids) for ids in found["input_ids"]],
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
        """f1 and exact_match over the tokens of each window, which is what can be computed without its text.

        The best span of all tokens, special ones included, is compared with the labelled one.

        Args:
            prediction: start and end logits, `(rows, tokens)` each, and labels, `(rows,)` each.
        """
        scores = [
            _token_scores(*row, longest=self.max_answer_length)
            for row in zip(*prediction.predictions[:2], *prediction.label_ids, strict=True)
        ]
        return dict(zip(METRICS, map(float, np.mean(scores, axis=0)), strict=True))

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`METRICS` in [0, 1]: the best over the gold answers, averaged over the questions.

        If the data has questions without an answer, also the averages over the questions with an answer and over those
        without (`has_answer_f1`, `has_answer_exact_match`, `no_answer_exact_match`; 0.0 over none).
        """
        logits = list(zip(*map(np.asarray, prediction.predictions[:2]), strict=True))
        graded = []
        for places in examples(rows):
            text = self._predicted([(*logits[place], rows[place]) for place in places])
            answers = rows[places[0]]["answers"]
            golds = self._golds(answers)
            graded.append((f1(text, golds), exact_match(text, golds), bool(answers)))
        scores = dict(zip(METRICS, _means(graded), strict=True))
        if not self.unanswerable:
            return scores
        with_answer, without = ([one for one in graded if one[2] is answered] for answered in (True, False))
        parts = zip(("has_answer_f1", "has_answer_exact_match"), _means(with_answer), strict=True)
        return {**scores, **dict(parts), "no_answer_exact_match": _means(without)[1]}

    def _predicted(self, outputs: Sequence[WindowOutput]) -> str:
        """The answer to one question by the outputs for its windows; "" for none."""
        spans, nothing = _combined(outputs, 1, self.max_answer_length)
        best = ranked(outputs[0][2]["context"], spans, 1)
        if not best or (self.unanswerable and nothing - best[0].score > self.null_threshold):
            return ""
        return best[0].text

    def _golds(self, answers: Sequence[str]) -> list[str]:
        """Gold answers as the official scripts take them: that of SQuAD 2.0 drops those that normalise to nothing."""
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
) -> list[Answer]:
    """A model's answers to a question, the best first, as the pipeline that version 5 of transformers has removed.

    Args:
        model: with a question-answering head, dense or compact; it is put into evaluation mode.
        tokenizer: the model's; a fast one.
        question, context: what is asked, and the text that may answer it; a long one is read in windows.
        most: number of answers to return, 1 to 20.
        nothing: whether "no answer" is one of the answers, for a model trained on such questions.
        max_length, doc_stride, max_answer_length: tokens, as in `Questions`.

    Raises:
        UserError: the question or the context is empty, a number is out of range, or as `windows` does.
    """
    _check_options(None, doc_stride, max_answer_length, 0.0)
    if not question.strip() or not context.strip():
        raise UserError("the question or the context is empty: give text for both")
    if not 1 <= most <= MOST:
        raise UserError(f"most is {most}: ask for 1 to {MOST} answers")
    found = windows(tokenizer, [question], [context], max_length, doc_stride)
    rows = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    outputs = [
        output for batch in range(0, len(rows), BATCH) for output in _outputs(model, tokenizer, rows[batch:][:BATCH])
    ]
    spans, null = _combined(outputs, MOST, max_answer_length)
    return ranked(context, spans, most, null if nothing else None)


def _outputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> Iterator[WindowOutput]:
    """The outputs of a model for one batch of windows."""
    inputs = {name: value.to(model.device) for name, value in WindowCollator(tokenizer)(rows).items()}
    outputs = model.eval()(**inputs)
    start, end = (logits.float().cpu().numpy() for logits in (outputs.start_logits, outputs.end_logits))
    return zip(start, end, rows, strict=True)


def _combined(outputs: Sequence[WindowOutput], most: int, longest: int) -> tuple[Spans, float]:
    """The best spans over all windows of a question, and the least score of "no answer" in one of them."""
    spans = merged(
        best_spans(start, end, unpacked(row["offsets"]), most=most, longest=longest) for start, end, row in outputs
    )
    return spans, min(float(start[row["nothing"]]) + float(end[row["nothing"]]) for start, end, row in outputs)


def _token_scores(
    start: NDArray[Any], end: NDArray[Any], first: int, last: int, *, longest: int
) -> tuple[float, float]:
    """f1 and exact match of the tokens of the best span with those from `first` to `last`."""
    count = int((start != PADDING).sum())
    tokens = np.stack([np.arange(count), np.arange(count) + 1], axis=1)
    ((a, b),) = best_spans(start, end, tokens, most=1, longest=longest) or {(0, 0): 0.0}
    shared = max(0, min(b, last + 1) - max(a, first))
    return 2 * shared / (b - a + last + 1 - first), float((a, b) == (first, last + 1))


def _means(graded: Sequence[tuple[float, float, bool]]) -> tuple[float, float]:
    """Average f1 and exact match; 0.0 over none."""
    if not graded:
        return 0.0, 0.0
    return float(np.mean([one[0] for one in graded])), float(np.mean([one[1] for one in graded]))


def _check_options(metric: str | None, doc_stride: Any, max_answer_length: Any, null_threshold: Any) -> None:
    if metric is not None and metric not in METRICS:
        raise UserError(f"metric {metric!r} is not known for questions: choose one of {', '.join(METRICS)}")
    for name, value, least in (("doc_stride", doc_stride, 0), ("max_answer_length", max_answer_length, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UserError(f"{name} is {value!r}: give a whole number of tokens, at least {least}")
    if isinstance(null_threshold, bool) or not isinstance(null_threshold, int | float):
        raise UserError(f"null_threshold is {null_threshold!r}: give a number, a difference of logits")
