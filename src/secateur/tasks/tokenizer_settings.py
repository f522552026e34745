"""The settings of a tokenizer: what batches need of them, and that encoding does not leave them changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase

from secateur.system.errors import UserError


def check_padded(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot fill the rows of a batch to one length.

    Raises:
        UserError: it has no padding token.
    """
    if tokenizer.pad_token is None:
        raise UserError(
            "the tokenizer has no padding token to fill batches with: set tokenizer.pad_token, and pad_token_id in the "
            "model's config"
        )


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
