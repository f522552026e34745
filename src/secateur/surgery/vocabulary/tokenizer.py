"""A tokenizer with the pieces that a vocabulary keeps."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.content import cut_content
from secateur.system.errors import UserError


def cut_tokenizer(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that has only the kept pieces, under their new numbers.

    A text is split into the same pieces as before if all of them are kept; see `algorithms`. The class, the special
    tokens, the templates and all other settings stay.

    Args:
        tokenizer: one of the library `tokenizers`; it is not changed.
        vocabulary: as `kept_pieces` chooses it.

    Raises:
        UserError: the tokenizer is not one of that library, its vocabulary cannot be cut, or a piece that it needs is
            not kept.

    Examples:
        >>> vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, texts, model.config.vocab_size))
        >>> cut_tokenizer(tokenizer, vocabulary).save_pretrained("smaller")
    """
    old = backend_of(tokenizer)
    new = Tokenizer.from_str(json.dumps(cut_content(content_of(tokenizer), vocabulary)))
    new.encode_special_tokens = old.encode_special_tokens
    _check_numbers(old.get_vocab(), new.get_vocab(), vocabulary)
    cut = copy.deepcopy(tokenizer, {id(old): new})  # the copy refers to `new` wherever the original refers to `old`
    _update_settings(cut)
    return cut


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer of the library `tokenizers`.

    Raises:
        UserError: there is none.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"the vocabulary of a {type(tokenizer).__name__} cannot be cut: expected a fast tokenizer, which has a"
            " tokenizer.json"
        )
    return tokenizer.backend_tokenizer


def content_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of its `tokenizer.json`.

    Raises:
        UserError: it has none.
    """
    content: dict[str, Any] = json.loads(backend_of(tokenizer).to_str())
    return content


def _check_numbers(old: Mapping[str, int], new: Mapping[str, int], vocabulary: Vocabulary) -> None:
    """The library numbers added tokens by itself, after the pieces of the model."""
    expected = {piece: vocabulary.numbers[number] for piece, number in old.items() if number in vocabulary.numbers}
    if wrong := dict(expected.items() ^ new.items()):
        raise UserError(
            f"the vocabulary of this tokenizer cannot be cut, since the piece {min(wrong)!r} would get another number"
            " than its row: expected added tokens that follow the other pieces without gaps"
        )


def _update_settings(cut: PreTrainedTokenizerBase) -> None:
    """What a tokenizer stores besides its backend: numbers of added tokens, and paths of files with the old pieces."""
    settings = cut.init_kwargs
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] = cut.added_tokens_decoder
    for name in {"tokenizer_file", *cut.vocab_files_names}:
        settings.pop(name, None)
        if name in vars(cut):
            setattr(cut, name, None)
