"""Summarisation: ROUGE of what a model writes, by rouge-score (Lin, 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from secateur.tasks import register
from secateur.tasks.sequences import Sequences


@register("summarisation")
@dataclass(frozen=True, eq=False)
class Summarisation(Sequences):
    """A short text for a long one. The scores are F1 in [0, 1], mean over the rows."""

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
    usual_tokens: ClassVar[int | None] = 128

    def graded(self, said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
        """Of single words, of pairs and of the longest common subsequence, words reduced to their stems (Porter)."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(self.metrics), use_stemmer=True)
        found = [scorer.score(target, text) for text, target in zip(said, wanted, strict=True)]
        return {name: float(np.mean([one[name].fmeasure for one in found])) for name in self.metrics}
