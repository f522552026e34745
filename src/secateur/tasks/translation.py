"""Translation: BLEU and chrF of generated texts, by sacrebleu (Post, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from secateur.tasks import register
from secateur.tasks.sequences import Sequences


@register("translation")
@dataclass(frozen=True, eq=False, repr=False)
class Translation(Sequences):
    """A text in another language. The scores are corpus scores of sacrebleu, in [0, 100]."""

    columns: ClassVar[Sequence[tuple[str, str]]] = (("source", "target"), ("src", "tgt"), ("input", "output"))
    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    package: ClassVar[tuple[str, str]] = ("sacrebleu", "sacrebleu")

    def score_texts(self, texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """BLEU (13a, cased, smoothed exponentially) and chrF2, as by `sacrebleu -m bleu chrf`."""
        from sacrebleu.metrics import BLEU, CHRF

        scorers = {"bleu": BLEU(), "chrf": CHRF()}
        return {name: float(each.corpus_score(list(texts), [list(targets)]).score) for name, each in scorers.items()}
