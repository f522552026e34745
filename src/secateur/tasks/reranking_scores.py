"""Scores of rankings: MRR@10 and nDCG@10, by the evaluator of sentence-transformers, and what a random order has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, log2
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MRR, NDCG = "mrr@10", "ndcg@10"
FIRST = 10
"""Places of a ranking that count."""
MOST = 20_000
"""Lists whose metrics are kept."""

_KEPT: dict[tuple[tuple[int, ...], bytes], tuple[float, ...]] = {}


def ranking_scores(lists: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, float]:
    """`MRR` and `NDCG`, averaged over lists of passages of a query; NaN over none.

    Both know passages that are relevant and others, no degrees. Of passages with the same score those that are not
    relevant come first.

    Args:
        lists: for each query the scores `(passages,)`, and which are relevant, `(passages,)` bool: some, and not all.
    """
    if not lists:
        return {MRR: float("nan"), NDCG: float("nan")}
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    found = np.concatenate([scores for scores, _ in lists]).astype(np.float64)
    starts = np.cumsum([0, *(len(scores) for scores, _ in lists)])
    samples: list[dict[str, Any]] = [
        {"query": number, "positive": list(start + np.flatnonzero(own)), "negative": list(start + np.flatnonzero(~own))}
        for number, (start, (_, own)) in enumerate(zip(starts, lists, strict=False))
    ]
    evaluator: Any = CrossEncoderRerankingEvaluator(samples, at_k=FIRST, write_csv=False)
    evaluator.compute_metrics = _once(evaluator.compute_metrics)
    values = evaluator(_scored(found))
    return {name: float(values[name]) for name in (MRR, NDCG)}


def _once(of_list: Callable[..., tuple[float, ...]]) -> Callable[..., tuple[float, ...]]:
    """The evaluator's function for one list, of which the values of the last lists are kept: it takes 3 ms.

    For a standard error the same lists are scored twenty times.
    """

    def metrics(relevant: Sequence[int], scores: NDArray[Any]) -> tuple[float, ...]:
        key = (tuple(relevant), scores.tobytes())
        if key not in _KEPT:
            if len(_KEPT) >= MOST:
                _KEPT.clear()
            _KEPT[key] = of_list(relevant, scores)
        return _KEPT[key]

    return metrics


def _scored(scores: NDArray[Any]) -> SimpleNamespace:
    """What the evaluator takes for a model: its passages are numbers, and it looks their scores up."""
    card = SimpleNamespace(set_evaluation_metrics=lambda *args, **kwargs: None)
    return SimpleNamespace(
        predict=lambda pairs, **options: scores[[passage for _, passage in pairs]], model_card_data=card
    )


def random_order(metric: str, lists: Sequence[NDArray[Any]]) -> float:
    """The expected `MRR` or `NDCG` of passages in a random order, averaged over lists of which some are relevant.

    Args:
        lists: which passages are relevant, `(passages,)` bool, for each query.
    """
    expected = _random_mrr if metric == MRR else _random_ndcg
    return float(np.mean([expected(int(own.sum()), len(own)) for own in lists]))


def _random_mrr(relevant: int, count: int) -> float:
    """`sum over places k <= 10 of P(the first relevant passage is at k) / k`; all sets of places are equally likely."""
    last = min(FIRST, count - relevant + 1)
    return sum(comb(count - place, relevant - 1) / comb(count, relevant) / place for place in range(1, last + 1))


def _random_ndcg(relevant: int, count: int) -> float:
    """The expected gain at each place is `relevant / count`; the ideal order has the relevant passages first."""
    discounts = [1 / log2(place + 1) for place in range(1, min(FIRST, count) + 1)]
    return relevant / count * sum(discounts) / sum(discounts[:relevant])
