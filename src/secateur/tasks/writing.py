"""How a model writes a text: token by token, by beam search with its cache; texts out of tokens and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.system.errors import UserError
from secateur.tasks.task import UNLABELLED, check_length

FACTOR, MORE = 1.2, 10
"""A text has at most `FACTOR` times the tokens of its source and `MORE`, as DSP decodes (specification, section 6)."""


@dataclass(frozen=True)
class Search:
    """Beam search.

    Attributes:
        beams: texts that are followed at once; 1 takes the likeliest token each time.
        length_penalty: the power of its length by which the log-probability of a text is divided: 0 favours short ones.
        max_new_tokens: that a text may have; None for 1.2 times those of the longest source of its batch, and 10 more.

    Raises:
        UserError: `beams` or `max_new_tokens` < 1.
    """

    beams: int = 5
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("beams", self.beams), ("max_new_tokens", self.max_new_tokens)):
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}: give at least 1")

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tokens that a model writes, `(batch, tokens)`, filled up with its padding token.

        What its own generation config says besides (repeated n-grams, a least length, ...) holds.

        Args:
            model: in evaluation mode.
            inputs: `input_ids` and `attention_mask`, `(batch, tokens)`, and whatever else its encoder takes.
        """
        writer: Any = model  # its `generate` has no type of its own
        return writer.generate(
            **inputs,
            num_beams=self.beams,
            do_sample=False,
            length_penalty=self.length_penalty,
            max_new_tokens=self.most(model, inputs["input_ids"].shape[1]),
        )

    def most(self, model: PreTrainedModel, longest: int) -> int:
        """The tokens that a text may have where the longest source has `longest`, and that the model has places for."""
        most = self.max_new_tokens or int(FACTOR * longest) + MORE
        positions = getattr(model.config, "max_position_embeddings", None)
        return most if positions is None else min(most, positions - 1)  # one is the token that begins


def texts_of(tokens: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each row of tokens `(rows, tokens)`, of which -100 are none, without special ones."""
    padded = np.where(np.asarray(tokens) == UNLABELLED, tokenizer.pad_token_id, tokens)
    return [text.strip() for text in tokenizer.batch_decode(padded, skip_special_tokens=True)]


def write(
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
    """What a model makes of texts, in their order: what transformers' pipelines did, which version 5 has removed.

    Args:
        model: that translates or summarises, dense or compact; it is put into evaluation mode.
        tokenizer: the model's.
        texts: sources; `prefix` goes before each.
        max_length: tokens to keep of a source, special ones included.
        batch: sources that are read at once, those of like length together.
        beams, length_penalty, max_new_tokens: as of `Search`.

    Raises:
        UserError: a text is empty, a number is out of range, or `max_length` is more than the model takes.
    """
    search = Search(beams, length_penalty, max_new_tokens)
    if not all(text.strip() for text in texts):
        raise UserError("a text is empty: give something to read in each")
    check_length(max_length, tokenizer)
    rows = [tokenizer(prefix + text, truncation=True, max_length=max_length) for text in texts]
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    written, model = [""] * len(rows), model.eval()
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        inputs = tokenizer.pad([rows[row] for row in chosen], return_tensors="pt").to(model.device)
        for row, text in zip(chosen, texts_of(search(model, inputs).cpu(), tokenizer), strict=True):
            written[row] = text
    return written
