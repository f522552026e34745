"""Windows of a context that may be too long for a model.

A long context is split into windows that overlap. Each window is an encoded row, labelled with the first and the last
token of the answer, or with the position of [CLS] for both if the window does not hold the whole answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Features, List, Value
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from secateur.structure.encoded_rows import EXAMPLE
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.tasks.question_data import NUMBER, TEXT
from secateur.tasks.rows import check_length
from secateur.tasks.task import PaddingCollator, examples
from secateur.tasks.tokenizer_settings import kept_settings

FOR_SCORING = (EXAMPLE, "offsets", "nothing", "context", "answers", "length")
"""The columns of encoded rows that only `score` reads."""


class WindowCollator(PaddingCollator):
    """Pads model inputs on the right, because labels and offsets count from the left; drops `FOR_SCORING`."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [{name: value for name, value in row.items() if name not in FOR_SCORING} for row in features]
        return compat.pad(
            self.tokenizer,
            rows,
            padding_side="right",
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="pt",
        )


def windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int,
    overlap: int | None = None,
) -> dict[str, list[Any]]:
    """Questions with their contexts, in windows of at most `max_length` tokens.

    The question comes first, or second if the tokenizer pads on the left. A question is cut to a third of `max_length`,
    so that there is room for the context.

    Args:
        tokenizer: the model's; a fast one.
        questions, contexts: pairs, in the same order.
        max_length: tokens of a window, special ones included.
        overlap: tokens of the context that two windows share; by default a third of `max_length`.

    Returns:
        For each window the columns of the tokenizer; `example`, the index of its question; `offsets` (see
        `best_spans`, as bytes of int32); and `nothing`, the position of [CLS].

    Raises:
        UserError: `max_length` is more than the tokenizer's model takes or leaves no room between overlaps, or the
            tokenizer is a slow one or has no [CLS].
    """
    longest_question = max_length // 3
    overlap = longest_question if overlap is None else overlap
    _check_tokenizer(tokenizer, max_length, overlap, longest_question)
    context_last = tokenizer.padding_side == "right"
    with kept_settings(tokenizer):
        questions = _cut_questions(questions, tokenizer, longest_question)
        encoded = tokenizer(
            *((questions, list(contexts)) if context_last else (list(contexts), questions)),
            truncation="only_second" if context_last else "only_first",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    own = encoded["overflow_to_sample_mapping"]
    offsets = [
        _offsets(spans, encoded.sequence_ids(row), int(context_last), contexts[own[row]])
        for row, spans in enumerate(encoded["offset_mapping"])
    ]
    return {
        **{name: encoded[name] for name in tokenizer.model_input_names},
        EXAMPLE: own,
        "offsets": [each.tobytes() for each in offsets],
        "nothing": [ids.index(tokenizer.cls_token_id) for ids in encoded["input_ids"]],
    }


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, longest_question: int) -> None:
    check_length(max_length, tokenizer)
    if not tokenizer.is_fast:
        raise UserError("the tokenizer does not report where in a text a token is: give a model with a fast tokenizer")
    if tokenizer.cls_token_id is None:
        raise UserError("the tokenizer has no [CLS], the token that stands for no answer: set its cls_token")
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - longest_question
    if overlap >= room:
        raise UserError(
            f"at max_length {max_length} a window has room for {max(room, 0)} tokens of the context beside the longest "
            f"question, and {overlap} of them (doc_stride) overlap with the previous window: give a smaller doc_stride "
            "or a larger max_length"
        )


def _cut_questions(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Questions without the space around them, cut to `most` tokens."""
    stripped = [question.strip() for question in questions]
    encoded = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        question if len(spans) <= most else question[: spans[most - 1][1]]
        for question, spans in zip(stripped, encoded["offset_mapping"], strict=True)
    ]


def _offsets(
    spans: Sequence[tuple[int, int]], sides: Sequence[int | None], side: int, context: str
) -> NDArray[np.int32]:
    """`(tokens, 2)` offsets of one window, as `best_spans` takes them; a token's leading space does not count.

    Args:
        spans: first character of each token, and the one after its last.
        sides: which text each token is of: 0, 1 or None.
        side: that of the context.
        context: the text.
    """
    offsets = np.array(spans, np.int32).reshape(-1, 2)
    offsets[[own != side for own in sides]] = 0
    blank = np.array([*map(str.isspace, context), False])
    while (spaced := blank[offsets[:, 0]] & (offsets[:, 0] < offsets[:, 1])).any():
        offsets[spaced, 0] += 1
    return offsets


def positions(
    encoded: Mapping[str, list[Any]], answers: Sequence[Sequence[str]], starts: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """The labels of all windows: the first and the last token of the first gold answer.

    In a window that does not hold the whole answer, both are the position of [CLS].

    Args:
        encoded: the result of `windows`.
        answers: gold answers of each question.
        starts: first characters of these.
    """
    labels = [(nothing, nothing) for nothing in encoded["nothing"]]
    for rows in examples([{EXAMPLE: own} for own in encoded[EXAMPLE]]):
        number = encoded[EXAMPLE][rows[0]]
        if answers[number]:
            text, start = answers[number][0], starts[number][0]
            span = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            for row, tokens in zip(rows, _tokens_of(span, [encoded["offsets"][row] for row in rows]), strict=True):
                labels[row] = tokens or labels[row]
    return [start for start, _ in labels], [end for _, end in labels]


def _tokens_of(span: tuple[int, int], offsets: Sequence[bytes]) -> list[tuple[int, int] | None]:
    """The first and the last token of a span of characters in each window; None if the window lacks a part of it."""
    tokens: list[tuple[int, int] | None] = []
    edges = []
    for window in map(unpacked, offsets):
        touched = np.flatnonzero((window[:, 0] < span[1]) & (window[:, 1] > span[0]))
        tokens.append((int(touched[0]), int(touched[-1])) if len(touched) else None)
        edges.append((window[touched[0], 0], window[touched[-1], 1]) if len(touched) else (np.inf, -np.inf))
    whole = min(first for first, _ in edges), max(last for _, last in edges)
    return [pair if edge == whole else None for pair, edge in zip(tokens, edges, strict=True)]


def unpacked(offsets: bytes) -> NDArray[np.int32]:
    """`(tokens, 2)` offsets from the bytes in an encoded row."""
    return np.frombuffer(offsets, np.int32).reshape(-1, 2)


def features(tokenizer: PreTrainedTokenizerBase) -> Features:
    """The features of encoded rows, because those of `answers` cannot be inferred from a batch without gold answers."""
    numbers = ("start_positions", "end_positions", "length", EXAMPLE, "nothing")
    return Features(
        {name: List(NUMBER) for name in tokenizer.model_input_names}
        | {name: NUMBER for name in numbers}
        | {"offsets": Value("binary"), "context": TEXT, "answers": List(TEXT)}
    )
