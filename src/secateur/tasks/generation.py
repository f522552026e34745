"""Generating texts with an encoder-decoder: beam search and decoding of the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.option_values import check_option
from secateur.tasks.rows import check_length
from secateur.tasks.tokenizer_settings import kept_settings

FACTOR, MORE = 1.2, 10
"""A text has at most `FACTOR` times the tokens of its source plus `MORE`, as in DSP (Li et al., TACL 2021)."""

ONE_TEXT: Mapping[str, Any] = {
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "num_beam_groups": None,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "stop_strings": None,
}
"""What `generate` is told to return one text for each source, as tokens, by the search of the caller and no other that
the generation config of a model may ask for. Strings at which a text stops need the tokenizer, which a caller adds."""


@dataclass(frozen=True)
class BeamSearch:
    """Beam search.

    Attributes:
        beams: number of beams; 1 is greedy search.
        length_penalty: exponent of the length by which the log-probability of a text is divided; 0 favours short texts.
        max_new_tokens: most tokens of a text; None for 1.2 times those of the longest source of its batch plus 10.

    Raises:
        UserError: `beams` or `max_new_tokens` is no whole number from 1 on, or the length penalty no finite number.
    """

    beams: int = 5
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        check_option("length_penalty", self.length_penalty, float)
        for name, number in (("beams", self.beams), ("max_new_tokens", self.max_new_tokens)):
            check_option(name, number, int | None if name == "max_new_tokens" else int)
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}: give at least 1")

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tokens that a model generates, `(batch, tokens)`, padded with its padding token.

        There is one text for each source. What the model's generation config says of the number of texts, of another
        search and of strings at which a text stops is not read; it sets everything else (repeated n-grams, minimum
        length, ...).

        Args:
            model: in evaluation mode.
            inputs: `input_ids` and `attention_mask`, `(batch, tokens)`, and the other inputs of its encoder.
        """
        untyped: Any = model  # `generate` of transformers has no type that mypy can follow
        return untyped.generate(
            **inputs,
            num_beams=self.beams,
            do_sample=False,
            length_penalty=self.length_penalty,
            max_new_tokens=self.longest_text(model, inputs["input_ids"].shape[1]),
            **ONE_TEXT,
        )

    def longest_text(self, model: PreTrainedModel, longest_source: int) -> int:
        """Most tokens of a text, for the tokens of the longest source, within the positions of the model."""
        tokens = self.max_new_tokens or int(FACTOR * longest_source) + MORE
        positions = getattr(model.config, "max_position_embeddings", None)
        return tokens if positions is None else min(tokens, positions - 1)  # the start token takes one


def decode(tokens: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each row of tokens `(rows, tokens)`, without special tokens; -100 is padding."""
    padded = np.where(np.asarray(tokens) == UNLABELLED, tokenizer.pad_token_id, tokens)
    return [text.strip() for text in tokenizer.batch_decode(padded, skip_special_tokens=True)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    prefix: str = "",
    max_length: int = 128,
    batch: int = 32,
    beams: int = 5,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
) -> list[str]:
    """The texts that a model generates for source texts; replaces the pipelines that transformers 5 has removed.

    Args:
        model: translates or summarises, dense or compact; it is put into evaluation mode.
        tokenizer: the model's.
        texts: the sources.
        prefix: text that is put before each source.
        max_length: tokens to keep of a source, special ones included.
        batch: number of sources in a batch; those of similar length are batched together.
        beams: as in `BeamSearch`.
        length_penalty: as in `BeamSearch`.
        max_new_tokens: as in `BeamSearch`.

    Returns:
        A text for each source, in the same order.

    Raises:
        UserError: a text is empty, a number is out of range, or `max_length` is more than the model takes.
    """
    search = BeamSearch(beams, length_penalty, max_new_tokens)
    if not all(text.strip() for text in texts):
        raise UserError("a text is empty: leave it out, or fill it")
    check_length(max_length, tokenizer, model)
    with kept_settings(tokenizer):
        rows = [tokenizer(prefix + text, truncation=True, max_length=max_length) for text in texts]
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    generated = [""] * len(rows)
    with evaluating([model]):
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            inputs = tokenizer.pad([rows[row] for row in chosen], return_tensors="pt").to(model.device)
            for row, text in zip(chosen, decode(search(model, inputs).cpu(), tokenizer), strict=True):
                generated[row] = text
    return generated
