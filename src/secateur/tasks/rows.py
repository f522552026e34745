"""Encoded rows: how long they are, and which are of one input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.encoded_rows import DIGEST
from secateur.structure.positions import positions
from secateur.system.errors import UserError


def length_of(row: Mapping[str, Any]) -> int:
    """The number of tokens of an encoded row; 1 for one of an image, because all images have equally many."""
    return len(row["input_ids"]) if "input_ids" in row else 1


def identity_of(row: Mapping[str, Any]) -> Any:
    """What is equal for encoded rows of one input: its tokens, or the digest of an image."""
    return tuple(row["input_ids"]) if "input_ids" in row else row[DIGEST]


def check_length(
    max_length: int, tokenizer: PreTrainedTokenizerBase | None = None, model: PreTrainedModel | None = None
) -> None:
    """Refuse rows of more tokens than the model takes.

    Raises:
        UserError: `max_length` is more than the tokenizer's limit, or than the model's positions. Many tokenizers have
            no limit.
    """
    limit = most_tokens(tokenizer, model)
    if limit is not None and max_length > limit:
        raise UserError(f"max_length is {max_length}: give at most {limit}, which the model takes")


def most_tokens(tokenizer: PreTrainedTokenizerBase | None = None, model: PreTrainedModel | None = None) -> int | None:
    """The most tokens that a model takes, by its tokenizer and by its positions; None if neither has a limit."""
    limits = (
        getattr(tokenizer, "model_max_length", None),  # which what reads images has not
        None if model is None else positions(model),
    )
    return min((limit for limit in limits if limit is not None), default=None)
