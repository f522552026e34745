"""The files of a tokenizer that servers read without transformers: `tokenizer.json` and what is beside it.

Each server finds the longest text in another place, and several places mean that the strictest counts: `max_length` and
`model_max_length` in `tokenizer_config.json` (fastembed), the truncation in `tokenizer.json` (the library tokenizers),
`max_seq_length` in `sentence_bert_config.json` (text-embeddings-inference, sentence-transformers). A checkpoint may
have a different number in each: all-MiniLM-L6-v2 has 128, 512, 128 and 256. Here all are the same.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.positions import positions
from secateur.system.errors import UserError

UNLIMITED = 10**9
"""transformers gives tokenizers without a limit 10**30 tokens."""
TOKENIZER, CONFIG, SPECIAL, LENGTH = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json",
)  # fmt: skip


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that servers cannot read.

    Raises:
        UserError: it has no `tokenizer.json`, or no token to pad a batch with.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"servers read tokenizer.json, and a {type(tokenizer).__name__} writes none: give a model whose tokenizer "
            "is of the library tokenizers"
        )
    if tokenizer.pad_token is None:
        raise UserError("servers pad the texts of a batch, and the tokenizer has no pad_token: set one and save it")


def length_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, given: int | None = None) -> int:
    """The longest text that is served, in tokens with special ones: that of a model, its tokenizer, or a shorter one.

    Args:
        given: as the model was trained, `max_seq_length` of a sentence-transformers folder, where it states one. It
            replaces the tokenizer's.

    Where none of them has a limit, it is the number of positions that the config names, as DeBERTa-v3 had in its
    pre-training.

    Raises:
        UserError: there is none either.
    """
    limits = (positions(model), given or tokenizer.model_max_length)
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < UNLIMITED]
    if not known and (trained := getattr(model.config, "max_position_embeddings", None)):
        known = [int(trained)]
    if not known:
        raise UserError(
            "servers need the number of tokens that a text may have, and neither model nor tokenizer states it: set "
            "tokenizer.model_max_length"
        )
    return min(known)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, length: int, *, lower_case: bool = False) -> None:
    """Write the tokenizer's files, with one limit of the length, in tokens, in all of them.

    `tokenizer.json` truncates at it, and pads the texts of a batch to the longest: `Tokenizer.from_file` needs no more.

    Args:
        lower_case: whether `tokenizer.json` lower-cases texts, which sentence-transformers does before the tokenizer.
    """
    own: Any = copy.deepcopy(tokenizer)
    own.model_max_length = length
    own.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _write_json(folder / CONFIG, {**config, "model_max_length": length, "max_length": length})
    _write_json(folder / SPECIAL, {name: str(token) for name, token in own.special_tokens_map.items()})
    pieces = Tokenizer.from_file(str(folder / TOKENIZER))
    if lower_case:
        own_steps = [] if pieces.normalizer is None else [pieces.normalizer]
        pieces.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own_steps])
    pieces.enable_truncation(length, direction=own.truncation_side)
    pieces.enable_padding(
        direction=own.padding_side, pad_id=own.pad_token_id, pad_type_id=own.pad_token_type_id, pad_token=own.pad_token
    )
    pieces.save(str(folder / TOKENIZER))


def write_length(folder: Path, length: int) -> None:
    """`sentence_bert_config.json`: servers prefer it to the number of positions, some of which a family may not use."""
    path = folder / LENGTH
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    _write_json(path, {**known, "max_seq_length": length})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
