"""Extractive question answering: the part of a text that answers a question, as in SQuAD 1.1 and 2.0.

A text that is too long for a model is read in windows that overlap. Each is a row of its own, labelled with the first
and the last token of the answer, or with [CLS] twice if it does not hold the whole of it; what a model says of all
windows of a question is one prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.system import compat
from secateur.system.errors import UserError
from secateur.tasks import register
from secateur.tasks.answers import Answer, Spans, best_spans, exact_match, f1, merged, normalise, ranked
from secateur.tasks.passages import NUMBER, TEXT, prepare
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import EXAMPLE, PaddingCollator, Task, check_length, examples

METRICS = ("f1", "exact_match")  # the first is the default
MOST = 20
"""Answers that are kept of a window and of a question (n-best of Devlin et al.'s script for SQuAD)."""
OWN = (EXAMPLE, "offsets", "nothing", "context", "answers", "length")
"""What rows hold for the score alone."""
BATCH = 32
"""Windows that are read at once to answer one question."""
PADDING = -100.0
"""What Trainer fills up shorter batches of logits with."""


class WindowCollator(PaddingCollator):
    """Pads model inputs on the right, where labels and offsets count from; leaves out what is for the score alone."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [{name: value for name, value in row.items() if name not in OWN} for row in features]
        return compat.pad(
            self.tokenizer,
            rows,
            padding_side="right",
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="pt",
        )


@register("questions")
@dataclass(frozen=True, eq=False)
class Questions(Task):
    """The part of a text that answers a question (SQuAD 1.1), or that it does not answer it (SQuAD 2.0).

    Attributes:
        splits: "train" and "validation", with the columns of `SPLIT`.
        metric: the main score, one of `METRICS`.
        unanswerable: whether the data has questions that their context does not answer.
        doc_stride: tokens of the context that two windows share; None for a third of `max_length`.
        max_answer_length: tokens that a predicted answer may have.
        labels: None, for the outputs of the head have no names.
        null_threshold: there is no answer if [CLS] scores higher by more than this, sums of two logits; where the
            data has no such questions there always is one.
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

        Answers are records of `text` and `answer_start` (characters), alone or in lists; or a column of text beside
        a column `answer_start`, as csv has it. No answers mean that the context does not answer; as does a true
        `is_impossible`. Where there is no validation split, the questions of a tenth of the contexts become it.

        Args:
            data: a name on the hub, a folder or a file.
            text: the columns of the question and of the context; by default the first of `TEXTS` that are there.
            label: the column of answers; by default the first of `ANSWERS` that is there.
            metric: the main score; by default f1.
            seed: chooses the contexts of a validation split that the data lacks, and the rows that `rows` keeps.
            rows: how many training questions to keep, for a quick trial; all by default. Validation stays whole.
            doc_stride, max_answer_length, null_threshold: as the attributes.

        Raises:
            UserError: the data cannot be read; a column is not there; a question or a context is empty; an answer
                does not stand in its context where it says; no question of a split has an answer; all questions of
                a split that has to be divided are of one context; a number is out of range; the metric is not known.
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
        """One of `splits`, or rows of one, as model inputs, unpadded: a row a window.

        Training rows are labelled with the first of their gold answers.

        Args:
            split: rows with the columns of `SPLIT`.
            tokenizer: the model's; a fast one.
            max_length: tokens of a window, question and special ones included; a question has at most a third.

        Returns:
            The columns of the tokenizer; `start_positions` and `end_positions`, the first and the last token of the
            answer or the place of [CLS] twice; `length` (tokens); and, for `score`, `example`, the number of the
            split's row, `offsets` (bytes of int32: see `best_spans`), `nothing`, the place of [CLS], `context` and
            `answers`.

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes or leaves no room between overlaps, or
                the tokenizer is a slow one or has no [CLS].
        """
        overlap = self.doc_stride

        def rows(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            found = windows(tokenizer, batch["question"], batch["context"], max_length, overlap)
            own = found[EXAMPLE]
            starts, ends = _label(found, batch["answers"], batch["starts"])
            return {
                **found,
                EXAMPLE: [numbers[place] for place in own],
                "start_positions": starts,
                "end_positions": ends,
                "length": [len(ids) for ids in found["input_ids"]],
                "context": [batch["context"][place] for place in own],
                "answers": [batch["answers"][place] for place in own],
            }

        kinds = _features(tokenizer)
        named = {"remove_columns": split.column_names, "features": kinds, "desc": "tokenize"}
        return split.map(rows, batched=True, with_indices=True, **named)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """f1 and exact_match of the tokens of each window: what can be told without its text.

        The best span of all tokens, special ones too, beside the labelled one.

        Args:
            prediction: start and end logits, `(rows, tokens)` each, and labels, `(rows,)` each.
        """
        scores = [
            _token_scores(*row, longest=self.max_answer_length)
            for row in zip(*prediction.predictions[:2], *prediction.label_ids, strict=True)
        ]
        return dict(zip(METRICS, map(float, np.mean(scores, axis=0)), strict=True))

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`METRICS` over all questions, in [0, 1]: the best over the gold answers, mean over the questions.

        Where the data has questions without an answer, also those of the questions with and without one alone
        (`has_answer_f1`, `has_answer_exact_match`, `no_answer_exact_match`; 0.0 where there are none).
        """
        said = list(zip(*map(np.asarray, prediction.predictions[:2]), strict=True))
        graded = []
        for places in examples(rows):
            text = self._predicted([(*said[place], rows[place]) for place in places])
            answers = rows[places[0]]["answers"]
            golds = self._golds(answers)
            graded.append((f1(text, golds), exact_match(text, golds), bool(answers)))
        scores = dict(zip(METRICS, _means(graded), strict=True))
        if not self.unanswerable:
            return scores
        with_answer, without = ([one for one in graded if one[2] is there] for there in (True, False))
        parts = zip(("has_answer_f1", "has_answer_exact_match"), _means(with_answer), strict=True)
        return {**scores, **dict(parts), "no_answer_exact_match": _means(without)[1]}

    def _predicted(self, said: Sequence[tuple[Any, Any, Mapping[str, Any]]]) -> str:
        """The answer to one question by start logits, end logits and row of each window; "" for none."""
        spans, nothing = _read_out(said, 1, self.max_answer_length)
        best = ranked(said[0][2]["context"], spans, 1)
        if not best or (self.unanswerable and nothing - best[0].score > self.null_threshold):
            return ""
        return best[0].text

    def _golds(self, answers: Sequence[str]) -> list[str]:
        """Gold answers as the scripts take them: that of 2.0 drops those of which normalising leaves nothing."""
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
    """A model's answers to a question, the best first: what transformers' pipeline did, which version 5 has removed.

    Args:
        model: with a question-answering head, dense or compact; it is put into evaluation mode.
        tokenizer: the model's; a fast one.
        question, context: what is asked, and the text that may answer; it is read in windows where it is long.
        most: answers to give, 1 to 20.
        nothing: whether there being no answer counts as one, for a model trained on such questions.
        max_length, doc_stride, max_answer_length: tokens, as of `Questions`.

    Raises:
        UserError: question or context are empty, or as of `Questions.encode`.
    """
    _check_options(None, doc_stride, max_answer_length, 0.0)
    if not question.strip() or not context.strip():
        raise UserError("the question or the context is empty: give text for both")
    if not 1 <= most <= MOST:
        raise UserError(f"most is {most}: ask for 1 to {MOST} answers")
    found = windows(tokenizer, [question], [context], max_length, doc_stride)
    rows = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    collate, said = WindowCollator(tokenizer), list[tuple[Any, Any, dict[str, Any]]]()
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        inputs = {name: value.to(model.device) for name, value in collate(part).items()}
        outputs = model.eval()(**inputs)
        logits = (each.float().cpu().numpy() for each in (outputs.start_logits, outputs.end_logits))
        said += zip(*logits, part, strict=True)
    spans, null = _read_out(said, MOST, max_answer_length)
    return ranked(context, spans, most, null if nothing else None)


# What a model reads


def windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int,
    overlap: int | None = None,
) -> dict[str, list[Any]]:
    """Questions with their contexts in windows of at most `max_length` tokens that share `overlap` of the context.

    The question comes first, or second where the tokenizer pads on the left. More than a third of `max_length` is
    cut off it, so that there is room for the context.

    Returns:
        The columns of the tokenizer, `example` (the place of the question), `offsets` (bytes) and `nothing`.

    Raises:
        UserError: as `Questions.encode`.
    """
    most = max_length // 3
    overlap = most if overlap is None else overlap
    _check_tokenizer(tokenizer, max_length, overlap, most)
    questions, last = _cut(questions, tokenizer, most), tokenizer.padding_side == "right"
    found = tokenizer(
        *((questions, list(contexts)) if last else (list(contexts), questions)),
        truncation="only_second" if last else "only_first",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    own = found["overflow_to_sample_mapping"]
    offsets = [
        _offsets(places, found.sequence_ids(row), int(last), contexts[own[row]])
        for row, places in enumerate(found["offset_mapping"])
    ]
    return {
        **{name: found[name] for name in tokenizer.model_input_names},
        EXAMPLE: own,
        "offsets": [each.tobytes() for each in offsets],
        "nothing": [ids.index(tokenizer.cls_token_id) for ids in found["input_ids"]],
    }


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, most: int) -> None:
    check_length(max_length, tokenizer)
    if not tokenizer.is_fast:
        raise UserError("the tokenizer cannot tell where in a text a token is: give a model with a fast tokenizer")
    if tokenizer.cls_token_id is None:
        raise UserError("the tokenizer has no [CLS], the token that says that there is no answer: set its cls_token")
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - most
    if overlap >= room:
        raise UserError(
            f"at max_length {max_length} a window has room for {max(room, 0)} tokens of the context beside the longest "
            f"question, and {overlap} of them (doc_stride) are the last window's: give a smaller doc_stride or a "
            "larger max_length"
        )


def _cut(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Questions without the space around them, of at most `most` tokens."""
    stripped = [question.strip() for question in questions]
    found = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [
        question if len(places) <= most else question[: places[most - 1][1]]
        for question, places in zip(stripped, found, strict=True)
    ]


def _offsets(
    places: Sequence[tuple[int, int]], sides: Sequence[int | None], side: int, context: str
) -> NDArray[np.int32]:
    """`(tokens, 2)` as of `best_spans`, of one window; the space that a token may begin with is not its own."""
    offsets = np.array(places, np.int32).reshape(-1, 2)
    offsets[[own != side for own in sides]] = 0
    blank = np.array([*map(str.isspace, context), False])
    while (spaced := blank[offsets[:, 0]] & (offsets[:, 0] < offsets[:, 1])).any():
        offsets[spaced, 0] += 1
    return offsets


def _label(
    found: Mapping[str, list[Any]], answers: Sequence[Sequence[str]], starts: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Start and end positions of all windows: of the first gold answer in those that hold all of it, else of [CLS]."""
    positions = [(nothing, nothing) for nothing in found["nothing"]]
    for places in examples([{EXAMPLE: own} for own in found[EXAMPLE]]):
        number = found[EXAMPLE][places[0]]
        if answers[number]:
            text, start = answers[number][0], starts[number][0]
            span = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            for place, held in zip(places, _holding([found["offsets"][n] for n in places], span), strict=True):
                positions[place] = held or positions[place]
    return [start for start, _ in positions], [end for _, end in positions]


def _holding(offsets: Sequence[bytes], span: tuple[int, int]) -> list[tuple[int, int] | None]:
    """Of each window of a context the first and the last token of a span of characters; None if one is elsewhere."""
    held: list[tuple[int, int] | None] = []
    edges = []
    for window in map(_unpacked, offsets):
        touched = np.flatnonzero((window[:, 0] < span[1]) & (window[:, 1] > span[0]))
        held.append((int(touched[0]), int(touched[-1])) if len(touched) else None)
        edges.append((window[touched[0], 0], window[touched[-1], 1]) if len(touched) else (np.inf, -np.inf))
    whole = min(first for first, _ in edges), max(last for _, last in edges)
    return [tokens if edge == whole else None for tokens, edge in zip(held, edges, strict=True)]


def _unpacked(offsets: bytes) -> NDArray[np.int32]:
    return np.frombuffer(offsets, np.int32).reshape(-1, 2)


def _features(tokenizer: PreTrainedTokenizerBase) -> Features:
    """Of encoded rows; told, because a batch without a gold answer does not show their kind."""
    numbers = ("start_positions", "end_positions", "length", EXAMPLE, "nothing")
    return Features(
        {name: List(NUMBER) for name in tokenizer.model_input_names}
        | {name: NUMBER for name in numbers}
        | {"offsets": Value("binary"), "context": TEXT, "answers": List(TEXT)}
    )


# What a model says


def _read_out(said: Sequence[tuple[Any, Any, Mapping[str, Any]]], most: int, longest: int) -> tuple[Spans, float]:
    """All windows of a question as one: the best spans of each, and the least score of there being no answer in one."""
    spans = merged(
        best_spans(start, end, _unpacked(row["offsets"]), most=most, longest=longest) for start, end, row in said
    )
    return spans, min(float(start[row["nothing"]]) + float(end[row["nothing"]]) for start, end, row in said)


def _token_scores(
    start: NDArray[Any], end: NDArray[Any], first: int, last: int, *, longest: int
) -> tuple[float, float]:
    """f1 and exact match of the best span's tokens with those from `first` to `last`."""
    count = int((start != PADDING).sum())
    tokens = np.stack([np.arange(count), np.arange(count) + 1], axis=1)
    ((a, b),) = best_spans(start, end, tokens, most=1, longest=longest) or {(0, 0): 0.0}
    shared = max(0, min(b, last + 1) - max(a, first))
    return 2 * shared / (b - a + last + 1 - first), float((a, b) == (first, last + 1))


def _means(graded: Sequence[tuple[float, float, bool]]) -> tuple[float, float]:
    """Mean f1 and exact match; 0.0 of nothing."""
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
