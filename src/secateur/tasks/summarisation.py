"""Summarisation: ROUGE of generated texts (Lin, 2004), by the package rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from secateur.tasks import predictors, register
from secateur.tasks.scripts_of_texts import LATIN, WordTokenizer, has_letters, script_of_texts
from secateur.tasks.sequence_data import TARGET
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
        """ROUGE-1, ROUGE-2 and ROUGE-L of words that are stemmed by Porter's rules, or of words in another script."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(self.metrics), use_stemmer=True, tokenizer=self._tokenizer)
        scores = [scorer.score(target, text) for text, target in zip(texts, targets, strict=True)]
        return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in self.metrics}

    @cached_property
    def _tokenizer(self) -> WordTokenizer | None:
        """None for that of rouge-score, which keeps a to z and digits alone, if most letters of targets are Latin."""
        targets = self.splits["validation"][TARGET][:]
        latin = script_of_texts(targets) == LATIN or not has_letters(targets)
        return None if latin else WordTokenizer()
