"""Scores of each class, compared with scikit-learn's and with entities counted by hand."""

import numpy as np
import pytest
from datasets import DatasetDict
from sklearn.metrics import precision_recall_fscore_support
from transformers import EvalPrediction

from secateur.tasks.class_scores import ClassScore, of_classes, of_indicators
from secateur.tasks.classification import Classification
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.tokens import Tokens

NAMES = ("bad", "fair", "good", "never")


def as_sklearn(predicted, gold, **options):
    parts = precision_recall_fscore_support(gold, predicted, zero_division=0, **options)
    precision, recall, f1, rows = (part.tolist() for part in parts)
    return [ClassScore(*one) for one in zip(NAMES, rows, precision, recall, f1, strict=True)]


def assert_same(found, expected):
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert np.allclose([one[2:] for one in found], [one[2:] for one in expected], rtol=0, atol=1e-12)


def test_classes_are_scored_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    gold, logits = rng.integers(3, size=50), rng.normal(size=(50, 4))
    predicted = logits.argmax(-1)
    assert_same(of_classes(predicted, gold, NAMES), as_sklearn(predicted, gold, labels=range(4)))
    task = Classification(DatasetDict(), ("text",), "label", NAMES, "accuracy")
    assert task.class_scores(EvalPrediction((logits, None), gold), []) == of_classes(predicted, gold, NAMES)
    regression = Classification(DatasetDict(), ("text",), "label", None, "pearson")
    assert regression.class_scores(EvalPrediction(logits[:, :1], gold), []) == []


def test_labels_are_scored_as_by_scikit_learn():
    rng = np.random.default_rng(1)
    gold, logits = rng.random((40, 4)) < 0.3, rng.normal(size=(40, 4))
    gold[:, 3], logits[:, 3] = False, -1.0
    expected = as_sklearn(logits > 0, gold)
    assert_same(of_indicators(logits > 0, gold, NAMES), expected)
    task = MultiLabel(DatasetDict(), ("text",), "label", NAMES, "micro_f1")
    assert_same(task.class_scores(EvalPrediction(logits, gold.astype(np.float32)), []), expected)
    assert expected[3] == ("never", 0, 0.0, 0.0, 0.0)


def tokens(*labels, metric="f1"):
    return Tokens(DatasetDict(), "words", "tags", labels, metric)


def prediction(said, width):
    """Logits that say these tags, of one sentence of which every word is seen."""
    return EvalPrediction(np.eye(width)[said][None], np.zeros((1, len(said)), dtype=int))


def test_entities_are_right_if_their_kind_and_both_ends_are():
    task = tokens("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    gold, said = [1, 2, 0, 3, 0, 1, 0], [1, 2, 0, 3, 4, 3, 0]  # the person is right; a place is too long, one is none
    rows = [{"tags": [*gold, 3], "seen": list(range(7))}]  # the last word is cut off
    found = task.class_scores(prediction(said, 5), rows)
    assert [one[:2] for one in found] == [("LOC", 2), ("PER", 2)]
    assert found[0][2:] == (0.0, 0.0, 0.0) and found[1][2:] == (1.0, 0.5, pytest.approx(2 / 3))


def test_tags_that_mark_no_entities_are_scored_by_word():
    task = tokens("NOUN", "VERB", metric="accuracy")
    rows = [{"tags": [0, 0, 1, 1], "seen": [0, 1, 2]}]
    assert task.class_scores(prediction([0, 1, 1], 2), rows) == [
        ("NOUN", 2, 1.0, 0.5, pytest.approx(2 / 3)),
        ("VERB", 2, 0.5, 0.5, 0.5),
    ]


def test_data_without_entities_has_none_to_score():
    assert tokens("O", "B-PER").class_scores(prediction([0, 0], 2), [{"tags": [0, 0], "seen": [0, 1]}]) == []
