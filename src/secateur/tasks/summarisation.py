"""Summarisation: ROUGE of generated texts (Lin, 2004), by the package rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from secateur.tasks import predictors, register
from secateur.tasks.sequences import Sequences


@register("summarisation")
@dataclass(frozen=True, eq=False, repr=False)
class Summarisation(Sequences):
    """A summary of a text. The scores are F1 in [0, 1], averaged over the rows."""

    defaults: ClassVar[Any] = {**Sequences.defaults, "data.max_length": 512, "measurement.shapes": ((1, 128), (8, 512))}
    columns: ClassVar[Sequence[tuple[str, str]]] = (
        ("article", "highlights"),
        ("document", "summary"),
        ("dialogue", "summary"),
        ("text", "summary"),
        ("article", "summary"),
        ("source", "target"),
    )
    metrics: ClassVar[tuple[str, ...]] = ("rougeL", "rouge1", "rouge2")
    package: ClassVar[tuple[str, str]] = ("rouge_score", "rouge-score")
    usual_tokens: ClassVar[int | None] = predictors.SUMMARY_TOKENS
    predictor: ClassVar[predictors.Predictor | None] = predictors.SUMMARIES

    def score_texts(self, texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """ROUGE-1, ROUGE-2 and ROUGE-L of words that are stemmed by Porter's rules."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(self.metrics), use_stemmer=True)
        scores = [scorer.score(target, text) for text, target in zip(texts, targets, strict=True)]
        return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in self.metrics}
