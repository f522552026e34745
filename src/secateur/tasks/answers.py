"""Parts of a text as answers: the best ones by a model's logits, and how good a text is beside the gold answers.

Texts are compared as the official scripts of SQuAD compare them (Rajpurkar et al., EMNLP 2016 and ACL 2018): without
case, punctuation, articles and superfluous spaces. The two scripts differ in one thing, F1 where nothing is left of
both texts: 1 in that of 2.0, which is ours, 0 in that of 1.1, to which the same texts match exactly.
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
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII's alone, as in the scripts

Spans = Mapping[tuple[int, int], float]
"""First character and the one after the last -> sum of the logits of start and end."""


@dataclass(frozen=True)
class Answer:
    """A part of a context, or that there is no answer: no text, from 0 to 0.

    Attributes:
        text: the characters of the context from `start` to before `end`.
        score: sum of the logits of its start and its end.
        probability: softmax of the scores of all answers that were listed with it.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


def best_spans(
    start: NDArray[np.floating], end: NDArray[np.floating], offsets: NDArray[np.integer], *, most: int, longest: int
) -> Spans:
    """The best answers in one window, of all that there are.

    Args:
        start, end: logits `(tokens,)`; more than the window has, as padding gives them, are not read.
        offsets: `(tokens, 2)`, a token's first character in the context and the one after its last; the same twice
            for what is no token of the context.
        most: how many answers to give; fewer where there are fewer.
        longest: tokens that an answer may have.
    """
    places = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    if not len(places):
        return {}
    beyond = np.full(longest - 1, -np.inf, end.dtype)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end[places], beyond]), longest)
    sums = (start[places, None] + ends).ravel()  # of the pair (first token, tokens that follow)
    count = min(most, int(np.isfinite(sums).sum()))
    found = np.argpartition(-sums, count - 1)[:count] if count else ()
    spans: dict[tuple[int, int], float] = {}
    for pair in found:
        first, more = divmod(int(pair), longest)
        span = int(offsets[places[first], 0]), int(offsets[places[first + more], 1])
        spans[span] = max(float(sums[pair]), spans.get(span, -np.inf))  # one character may be several tokens
    return spans


def merged(windows: Iterable[Spans]) -> Spans:
    """The answers of all windows of a context, each once: where windows overlap, with the better score."""
    found: dict[tuple[int, int], float] = {}
    for spans in windows:
        for span, score in spans.items():
            found[span] = max(score, found.get(span, -np.inf))
    return found


def ranked(context: str, spans: Spans, most: int, nothing: float | None = None) -> list[Answer]:
    """The best answers, falling; `nothing` is the score of there being none, where that counts as one."""
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
    """Lower case, without punctuation and articles, words one space apart: `normalize_answer` of the scripts."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(text: str, golds: Sequence[str]) -> float:
    """1.0 if the text is one of the gold answers, normalised; of no gold answer, if nothing is left of it."""
    return float(any(normalise(text) == normalise(gold) for gold in golds or ("",)))


def f1(text: str, golds: Sequence[str]) -> float:
    """The best F1 of the text's words with those of a gold answer, normalised; no gold answer is an empty one."""
    return max(_overlap(normalise(text).split(), normalise(gold).split()) for gold in golds or ("",))


def _overlap(words: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of words; where one is empty, whether the other is too."""
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold))
