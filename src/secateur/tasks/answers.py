"""Answers, which are spans of a context: the best ones by the logits of a model, and their scores.

Texts are compared as by the official scripts of SQuAD (Rajpurkar et al., EMNLP 2016 and ACL 2018): without case,
punctuation, articles and superfluous spaces. The two scripts differ only in the F1 of two texts that are both empty
after this: it is 1 in the script of SQuAD 2.0, as here, and 0 in that of 1.1, although its exact match is 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII only, as in the scripts

Spans = Mapping[tuple[int, int], float]
"""(First character, the character after the last) -> sum of the start and the end logit."""


@dataclass(frozen=True)
class Answer:
    """An answer, a span of a context; "no answer" is an empty text from 0 to 0.

    Attributes:
        text: `context[start:end]`.
        start: first character.
        end: the character after the last.
        score: sum of the start and the end logit.
        probability: softmax of the scores of all answers that are returned with it.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


def best_spans(
    start: NDArray[np.floating], end: NDArray[np.floating], offsets: NDArray[np.integer], *, most: int, longest: int
) -> Spans:
    """The best answers in one window, by exhaustive search.

    Args:
        start, end: logits `(tokens,)`; those beyond the tokens of the window are padding, and are ignored.
        offsets: `(tokens, 2)`: first character of a token in the context, and the one after its last; equal for tokens
            that are not of the context.
        most: number of answers to return; the result has fewer if there are fewer.
        longest: most tokens of an answer.
    """
    inside = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    if not len(inside):
        return {}
    beyond = np.full(longest - 1, -np.inf, end.dtype)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end[inside], beyond]), longest)
    sums = (start[inside, None] + ends).ravel()  # index: first token x `longest` + number of tokens after it
    count = min(most, int(np.isfinite(sums).sum()))
    best = np.argpartition(-sums, count - 1)[:count] if count else ()
    spans: dict[tuple[int, int], float] = {}
    for index in best:
        first, more = divmod(int(index), longest)
        span = int(offsets[inside[first], 0]), int(offsets[inside[first + more], 1])
        spans[span] = max(float(sums[index]), spans.get(span, -np.inf))  # one character may be several tokens
    return spans


def merged(windows: Iterable[Spans]) -> Spans:
    """The answers in all windows of a context, each once, with the best of its scores where windows overlap."""
    best: dict[tuple[int, int], float] = {}
    for spans in windows:
        for span, score in spans.items():
            best[span] = max(score, best.get(span, -np.inf))
    return best


def ranked(context: str, spans: Spans, most: int, nothing: float | None = None) -> list[Answer]:
    """The `most` best answers, the best first; `nothing` is the score of "no answer", if that counts as one."""
    scores = dict(spans) if nothing is None else {**spans, (0, 0): nothing}
    order = sorted(scores, key=lambda span: (-scores[span], span))[:most]
    if not order:
        return []
    weights = np.exp(np.array([scores[span] for span in order]) - scores[order[0]])
    return [
        Answer(context[span[0] : span[1]], *span, scores[span], float(weight))
        for span, weight in zip(order, weights / weights.sum(), strict=True)
    ]


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, one space between words: `normalize_answer` of the scripts."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def first_words(text: str, count: int) -> str:
    """The first `count` words of a text."""
    return " ".join(text.split(maxsplit=count)[:count])


def exact_match(text: str, golds: Sequence[str]) -> float:
    """1.0 if the text equals a gold answer, both normalised, else 0.0; no gold answer counts as an empty one."""
    return float(any(normalise(text) == normalise(gold) for gold in golds or ("",)))


def f1(text: str, golds: Sequence[str]) -> float:
    """The best F1 of its words with those of a gold answer, both normalised; no gold answer counts as an empty one."""
    return max(_overlap(normalise(text).split(), normalise(gold).split()) for gold in golds or ("",))


def _overlap(words: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of words; if one is empty, 1.0 if both are, else 0.0."""
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold))
