"""Scores of the tags of sentences: of words, and of whole entities."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from secateur.tasks.tag_schemes import OUTSIDE, common_tags

Tags = Sequence[Sequence[str]]
"""The tag of each word of each sentence."""


def tag_scores(true: Tags, predicted: Tags, labels: Sequence[str]) -> dict[str, float]:
    """f1, precision and recall of entities, if the labels mark entities, and the accuracy of words."""
    marks = common_marks(labels)
    entities = {} if marks is None else entity_scores(marked(true, marks), marked(predicted, marks))
    return {**entities, "accuracy": accuracy(true, predicted)}


def accuracy(true: Tags, predicted: Tags) -> float:
    """The share of words whose tag is right, 0.0 of no words."""
    right = [a == b for row, other in zip(true, predicted, strict=True) for a, b in zip(row, other, strict=True)]
    return float(np.mean(right)) if right else 0.0


def entity_scores(true: Tags, predicted: Tags) -> dict[str, float]:
    """f1, precision and recall of whole entities, whose tags are in BIOES; 0.0 where one is undefined."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        list(true), list(predicted), average="micro", zero_division=0
    )
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def common_marks(labels: Sequence[str]) -> dict[str, str] | None:
    """Tag -> the tag in BIOES (`common_tags`); None if the tags mark no entities."""
    common = common_tags(labels)
    return None if common is None else dict(zip(labels, common, strict=True))


def marked(tags: Tags, marks: dict[str, str]) -> list[list[str]]:
    """The tags in BIOES; one that is not known is O."""
    return [[marks.get(tag, OUTSIDE) for tag in row] for row in tags]


def constant_score(true: Tags, seen: Sequence[Collection[int]], labels: Sequence[str], metric: str) -> float:
    """The best `metric` of one answer for all words of which the model sees a token; the other words are O.

    For accuracy the answers are the tags that occur. For the scores of entities an answer is that each word is an
    entity of one word, all of one kind: that is about what a random model has, and no entity at all has 0.0.

    Args:
        true: the tags.
        seen: the indices of the words of each sentence that the model sees.
        labels: the names of all tags.
        metric: a key of `tag_scores`.
    """
    marks = None if metric == "accuracy" else common_marks(labels)
    if marks is None:
        answers = {tag for row in true for tag in row}
        return max((accuracy(true, _constant(true, seen, tag)) for tag in answers), default=0.0)
    gold = marked(true, marks)
    answers = {f"S-{mark[2:]}" for row in gold for mark in row if mark != OUTSIDE}
    return max((entity_scores(gold, _constant(gold, seen, tag))[metric] for tag in answers), default=0.0)


def _constant(true: Tags, seen: Sequence[Collection[int]], tag: str) -> list[list[str]]:
    places = [set(words) for words in seen]
    return [
        [tag if word in own else OUTSIDE for word in range(len(row))] for row, own in zip(true, places, strict=True)
    ]
