"""The standard error of a score, by the jackknife over groups of examples, for every kind of metric."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers import EvalPrediction

from secateur.measure.evaluation import standard_error


def mean_of_hits(prediction, rows):
    """The accuracy, from an array of outputs and one of labels."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def accuracy(count, right, seed=0):
    labels = np.zeros(count, int)
    hits = np.random.default_rng(seed).permutation(np.arange(count) < right)
    logits = np.stack([hits, ~hits], axis=1).astype(float)
    rows = [{"number": number} for number in range(count)]
    return SimpleNamespace(metric="accuracy", score=mean_of_hits), EvalPrediction(logits, labels), rows


def test_of_an_accuracy_it_is_near_the_binomial_one():
    errors = [standard_error(*accuracy(1000, 900, seed)) for seed in range(8)]
    assert np.mean(errors) == pytest.approx((0.9 * 0.1 / 1000) ** 0.5, rel=0.2)


def test_with_as_many_groups_as_examples_it_is_exact():
    """The jackknife of a mean is the standard deviation, with n - 1, over the root of n."""
    task, prediction, rows = accuracy(12, 9)
    hits = prediction.predictions.argmax(-1) == 0
    assert standard_error(task, prediction, rows) == pytest.approx(hits.std(ddof=1) / 12**0.5)


def test_rows_of_one_example_are_left_out_together():
    """Two windows of each question: left out alone, a window would leave its question half scored."""
    seen = []

    def score(prediction, rows):
        seen.append(sorted(row["example"] for row in rows))
        assert all(output[0] == row["example"] for output, row in zip(prediction.predictions[0], rows, strict=True))
        return {"f1": float(len(rows))}

    rows = [{"example": number // 2} for number in range(80)]
    outputs = (np.array([[row["example"]] for row in rows]), np.zeros((80, 1)))
    standard_error(SimpleNamespace(metric="f1", score=score), EvalPrediction(outputs, (outputs[0],)), rows)
    assert len(seen) == 20 and all(one.count(number) == 2 for one in seen for number in one)


def test_it_is_unknown_for_one_example_or_a_metric_that_is_undefined():
    task, prediction, rows = accuracy(1, 1)
    assert standard_error(task, prediction, rows) is None
    task, prediction, rows = accuracy(30, 3)
    task.score = lambda prediction, rows: {"accuracy": float("nan")}
    assert standard_error(task, prediction, rows) is None
