"""Scores of sentence embeddings: agreement with a reference, similarities of pairs, and retrieval.

Pairs with a score and retrieval are scored by the evaluators of sentence-transformers (extra `[embeddings]`), which get
the vectors that were computed for our rows, so that every runtime is scored by one path.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from secateur.structure.encoded_rows import EXAMPLE
from secateur.surgery.sentence.similarity import COSINE, SIMILARITIES
from secateur.tasks.embedding_data import DOCUMENT, KIND, MEMBER, QUERY, TEXT

TEXT_METRICS = ("neighbours", COSINE)
"""Of texts without labels, against the vectors of a reference; the first is the default."""
NEIGHBOURS = 10
"""Texts that are the most similar to a text."""
EVALUATORS = "sentence_transformers.sentence_transformer.evaluation"

Vectors = NDArray[np.float32]
"""`(texts, dims)`."""


def text_scores(vectors: Vectors, reference: Vectors, similarity: str = COSINE) -> dict[str, float]:
    """How far vectors of texts agree with those of a reference, in [0, 1] or, for cosines, in [-1, 1].

    `cosine` is the mean cosine of a vector with the reference's of the same text; it is left out if their widths
    differ. `neighbours` is the mean share of the ten nearest neighbours of a text among all the others that are
    those by the reference's vectors; of all others if there are fewer.

    Args:
        similarity: by which texts are near each other, of `SIMILARITIES`.
    """
    scores = {"neighbours": _common_neighbours(vectors, reference, similarity)}
    own, other = _normalised(vectors), _normalised(reference)
    return scores | ({COSINE: float((own * other).sum(-1).mean())} if own.shape == other.shape else {})


def _common_neighbours(own: Vectors, other: Vectors, similarity: str) -> float:
    """The mean share of common nearest neighbours; 1 for a single text."""
    count = min(NEIGHBOURS, len(own) - 1)
    if count < 1:
        return 1.0
    near, nearest = (_neighbours(each, count, similarity) for each in (own, other))
    return float((near & nearest).sum(-1).mean() / count)


def _neighbours(vectors: Vectors, count: int, similarity: str) -> NDArray[np.bool_]:
    """`(texts, texts)`: which texts are the nearest to each; of equally near ones the first."""
    rows = torch.from_numpy(vectors)
    similarities = SIMILARITIES[similarity](rows, rows).numpy()
    np.fill_diagonal(similarities, -np.inf)
    first = np.argsort(-similarities, axis=-1, kind="stable")[:, :count]
    near = np.zeros(similarities.shape, bool)
    np.put_along_axis(near, first, True, axis=-1)
    return near


def _normalised(vectors: Vectors) -> Vectors:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Evaluation(ABC):
    """Texts to encode, and what their vectors are scored by.

    Attributes:
        metrics: the names of the scores; the first is the default.
    """

    metrics: ClassVar[tuple[str, ...]]

    @abstractmethod
    def texts(self) -> Dataset:
        """The texts, with the columns `TEXT`, `KIND`, `MEMBER` and `EXAMPLE`."""

    @abstractmethod
    def scores(self, vectors: Mapping[str, int], rows: Vectors, similarity: str = COSINE) -> dict[str, float]:
        """The scores of some of its texts.

        Args:
            vectors: `MEMBER` of a text -> its place in `rows`.
            similarity: how vectors are compared, of `SIMILARITIES`.
        """

    @abstractmethod
    def contents(self) -> Iterator[str]:
        """All that it holds besides the texts, for a fingerprint."""


@dataclass(frozen=True, eq=False)
class ScoredPairs(Evaluation):
    """Pairs of texts with a number that says how similar they are, in any unit: only its order and its line count."""

    metrics = ("spearman", "pearson")
    pairs: Sequence[tuple[str, str]]
    gold: Sequence[float]

    def texts(self) -> Dataset:
        numbers = [(number, side) for number in range(len(self.pairs)) for side in (0, 1)]
        return Dataset.from_dict(
            {
                TEXT: [self.pairs[number][side] for number, side in numbers],
                MEMBER: [f"{number}.{side}" for number, side in numbers],
                EXAMPLE: [number for number, _ in numbers],
            }
        )

    def scores(self, vectors: Mapping[str, int], rows: Vectors, similarity: str = COSINE) -> dict[str, float]:
        whole = [number for number in range(len(self.pairs)) if f"{number}.0" in vectors and f"{number}.1" in vectors]
        sides = ([f"{number}.{side}" for number in whole] for side in (0, 1))
        gold = [self.gold[number] for number in whole]
        evaluator = _evaluators().EmbeddingSimilarityEvaluator(
            *sides, gold, similarity_fn_names=[similarity], write_csv=False
        )
        computed = evaluator(Encoded(vectors, rows))
        return {name: float(np.nan_to_num(computed[f"{name}_{similarity}"])) for name in self.metrics}

    def contents(self) -> Iterator[str]:
        yield json.dumps(list(self.gold))


@dataclass(frozen=True, eq=False)
class Retrieval(Evaluation):
    """Queries, and which documents of a corpus answer each. An example is a query; the corpus belongs to all of them.

    Attributes:
        relevant: number of a query -> numbers of the documents.
    """

    metrics = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")
    queries: Sequence[str]
    corpus: Sequence[str]
    relevant: Sequence[Sequence[int]]

    def texts(self) -> Dataset:
        queries, corpus = range(len(self.queries)), range(len(self.corpus))
        return Dataset.from_dict(
            {
                TEXT: [*self.queries, *self.corpus],
                KIND: [QUERY] * len(self.queries) + [DOCUMENT] * len(self.corpus),
                MEMBER: [f"q{number}" for number in queries] + [f"d{number}" for number in corpus],
                EXAMPLE: [*queries, *[None] * len(self.corpus)],
            }
        )

    def scores(self, vectors: Mapping[str, int], rows: Vectors, similarity: str = COSINE) -> dict[str, float]:
        names = [f"q{number}" for number in range(len(self.queries)) if f"q{number}" in vectors]
        documents = [f"d{number}" for number in range(len(self.corpus)) if f"d{number}" in vectors]
        evaluator = _evaluators().InformationRetrievalEvaluator(
            {name: name for name in names},
            {name: name for name in documents},
            {name: {f"d{number}" for number in self.relevant[int(name[1:])]} for name in names},
            ndcg_at_k=[10],
            mrr_at_k=[10],
            accuracy_at_k=[10],
            precision_recall_at_k=[10, 100],
            map_at_k=[100],
            score_functions={similarity: SIMILARITIES[similarity]},
            write_csv=False,
        )
        computed = evaluator(Encoded(vectors, rows))
        return {name: float(computed[f"{similarity}_{name}"]) for name in self.metrics}

    def contents(self) -> Iterator[str]:
        yield json.dumps([list(own) for own in self.relevant])


class Encoded:
    """What an evaluator takes for a model: it looks up vectors that were computed already, by the names of texts."""

    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *arguments, **options: None)

    def __init__(self, places: Mapping[str, int], rows: Vectors) -> None:
        self.places, self.rows = places, rows

    def encode(self, names: Sequence[str], **options: Any) -> Tensor:
        """`(texts, dims)`."""
        return torch.from_numpy(self.rows[[self.places[name] for name in names]])

    encode_query = encode_document = encode


def _evaluators() -> Any:
    return import_module(EVALUATORS)
