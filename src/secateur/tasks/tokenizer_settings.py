"""The settings of a tokenizer, which encoding must not leave changed: they are saved with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase


@contextmanager
def kept_settings(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore the truncation and the padding of a fast tokenizer afterwards.

    transformers sets both in the tokenizer itself at every call, so that a saved one would truncate at the length of
    the last call.
    """
    if not tokenizer.is_fast:
        yield
        return
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
