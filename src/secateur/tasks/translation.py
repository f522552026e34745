"""Translation: BLEU and chrF of generated texts, by sacrebleu (Post, 2018)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from secateur.system.errors import UserError
from secateur.tasks import register
from secateur.tasks.scripts_of_texts import CHINESE, JAPANESE, KOREAN, UNSEGMENTED, script_of_texts
from secateur.tasks.sequence_data import TARGET
from secateur.tasks.sequences import Sequences

USUAL = "13a"
"""The tokenizer of BLEU, unless the user names another."""
BY_SPACES = (USUAL, "intl", "none")
"""Tokenizers that divide texts at spaces and punctuation alone."""
OF_SCRIPTS: Mapping[str, str] = {
    **dict.fromkeys(UNSEGMENTED, "char"),
    CHINESE: "zh",
    JAPANESE: "ja-mecab",
    KOREAN: "ko-mecab",
}
"""Script of the targets -> the tokenizer with which BLEU is usually reported."""

log = logging.getLogger(__name__)


@register("translation")
@dataclass(frozen=True, eq=False, repr=False)
class Translation(Sequences):
    """A text in another language. The scores are corpus scores of sacrebleu, in [0, 100].

    Attributes:
        tokenize: sacrebleu's name of the tokenizer by which BLEU divides texts into words.
    """

    columns: ClassVar[Sequence[tuple[str, str]]] = (("source", "target"), ("src", "tgt"), ("input", "output"))
    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    package: ClassVar[tuple[str, str]] = ("sacrebleu", "sacrebleu")

    tokenize: str = USUAL

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
        prefix: str = "",
        beams: int = 5,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
        max_target_length: int | None = None,
        fine_tuned: bool = True,
        tokenize: str = USUAL,
    ) -> Translation:
        """As `Sequences.from_data`, with `tokenize` as the attribute.

        Raises:
            UserError: as there; or sacrebleu has no such tokenizer, or cannot use it.
        """
        cls._check(metric, max_target_length)
        _check_tokenizer(tokenize)
        task = super().from_data(
            data,
            text=text,
            label=label,
            metric=metric,
            seed=seed,
            rows=rows,
            validation=validation,
            prefix=prefix,
            beams=beams,
            length_penalty=length_penalty,
            max_new_tokens=max_new_tokens,
            max_target_length=max_target_length,
            fine_tuned=fine_tuned,
        )
        script = script_of_texts(task.splits["validation"][TARGET][:])
        if script is not None and script in OF_SCRIPTS and tokenize in BY_SPACES and task.metric == cls.metrics[0]:
            log.warning(
                "most letters of the targets are %s, which the tokenizer %s of BLEU does not divide into words as is "
                "usual: set --task-option tokenize=%s, or score by --metric chrf",
                script, tokenize, OF_SCRIPTS[script],
            )  # fmt: skip
        return replace(task, tokenize=tokenize)

    def score_texts(self, texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """BLEU (cased, smoothed exponentially, by `tokenize`) and chrF2, as by `sacrebleu -m bleu chrf`."""
        from sacrebleu.metrics import BLEU, CHRF

        scorers = {"bleu": BLEU(tokenize=self.tokenize), "chrf": CHRF()}
        return {name: float(each.corpus_score(list(texts), [list(targets)]).score) for name, each in scorers.items()}


def _check_tokenizer(name: str) -> None:
    """Refuse a tokenizer that sacrebleu does not have, or cannot use."""
    from sacrebleu.metrics import BLEU

    if name not in BLEU.TOKENIZERS:
        raise UserError(f"tokenize {name!r} is no tokenizer of sacrebleu: choose one of {', '.join(BLEU.TOKENIZERS)}")
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError, OSError) as error:  # a package or a model of it is missing
        said = " ".join(str(error).split())
        raise UserError(
            f"tokenize {name!r} cannot be used ({said}): install what it needs, or choose another"
        ) from error
