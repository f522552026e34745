"""Token types, which tell the texts of a pair apart, and the models that have one type alone.

Some encoders come with a tokenizer that gives two: RoBERTas that were trained with the tokenizer of BERT, as the Korean
ones of KLUE. Their tables have one row, so that the type of the second text would be out of its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

TOKEN_TYPES = "token_type_ids"
Value = TypeVar("Value")


def has_one_type(config: Any) -> bool:
    """Whether a config, of transformers or its keys in a dictionary, is that of a model with one token type alone."""
    key = "type_vocab_size"
    return bool((config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)) == 1)


def unread_types(model: Any) -> tuple[str, ...]:
    """The name of the token types for a model with one alone, which takes none; empty for others."""
    return (TOKEN_TYPES,) if has_one_type(getattr(model, "config", None)) else ()


def without_unread_types(values: Mapping[str, Value], model: Any) -> dict[str, Value]:
    """The inputs of a model, by name, without token types if it has one alone."""
    unread = unread_types(model)
    return {name: value for name, value in values.items() if name not in unread}
