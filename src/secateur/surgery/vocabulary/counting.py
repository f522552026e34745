"""Which pieces texts use, which of them are kept, and what this changes."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, groupby, islice
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.algorithms import algorithm_of
from secateur.surgery.vocabulary.content import closure
from secateur.surgery.vocabulary.tokenizer import backend_of, content_of
from secateur.system.errors import UserError

Text = str | Sequence[str]
"""A text, or its words if they are split already."""
Item = TypeVar("Item")
BATCH = 1000
"""How many texts are split at a time."""


def counts_of(rows: Iterable[Sequence[int]], size: int) -> Tensor:
    """How often each piece occurs in encoded rows, `(size,)`, int64.

    Args:
        rows: numbers of pieces; negative ones, which mark ignored labels, do not count.
        size: pieces of the vocabulary.

    Raises:
        UserError: a number is not less than the size.
    """
    counts = torch.zeros(size, dtype=torch.int64)
    for batch in _batches(rows):
        numbers = torch.tensor([number for row in batch for number in row if number >= 0], dtype=torch.int64)
        found = torch.bincount(numbers, minlength=size)
        if len(found) > size:
            raise UserError(
                f"the texts have piece {len(found) - 1}, but the model has only {size} pieces: expected its tokenizer"
            )
        counts += found
    return counts


def text_counts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text], size: int) -> Tensor:
    """How often each piece occurs in whole texts, `(size,)`, int64, without special tokens.

    Raises:
        UserError: the tokenizer is not a fast one, or has a piece whose number is not less than the size; or these are
            no texts.
    """
    return counts_of(_split(backend_of(tokenizer), checked_texts(texts)), size)


def checked_texts(texts: Iterable[Text]) -> Iterator[Text]:
    """The texts, of which one that is none is refused when it is reached.

    Raises:
        UserError: they are one text, whose characters would be taken for texts, or a mapping.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"expected several texts, got one {type(texts).__name__}: give a list of texts")
    return map(_checked, count(1), texts)


def _checked(number: int, text: Text) -> Text:
    words = text if isinstance(text, Sequence) else (None,)
    if not isinstance(text, str) and not all(isinstance(word, str) for word in words):
        raise UserError(f"text {number} is {reprlib.repr(text)}: expected a str, or a list of its words")
    return text


def kept_pieces(
    tokenizer: PreTrainedTokenizerBase, counts: Tensor, min_count: int = 1, also: Iterable[int] = ()
) -> Vocabulary:
    """The pieces that occur often enough, the special and added tokens, and what the tokenizer's algorithm needs.

    Args:
        counts: `(size,)`, see `counts_of`.
        min_count: how often a piece must occur to be kept, at least 1.
        also: numbers of pieces that are kept in any case: those in the configuration of the model.

    Raises:
        UserError: the vocabulary cannot be cut, or the tokenizer needs a piece that the model does not have.
    """
    if min_count < 1:
        raise UserError(f"min_count must be at least 1, got {min_count}")
    wanted = {*(counts >= min_count).nonzero().flatten().tolist(), *also, *tokenizer.all_special_ids} - {None}
    kept = sorted(closure(content_of(tokenizer), wanted))
    if kept[-1] >= len(counts):
        raise UserError(
            f"the tokenizer needs piece {kept[-1]}, but the model has only {len(counts)} pieces: expected its tokenizer"
        )
    return Vocabulary(len(counts), tuple(kept))


# Coverage


@dataclass(frozen=True)
class Coverage:
    """How a cut tokenizer splits texts, compared with the tokenizer before.

    Attributes:
        texts: their number.
        same: the share of texts that are split into the same pieces, from 0 to 1.
        unknown_before: the share of pieces that are the unknown token, with the tokenizer before.
        unknown_after: this share with the cut tokenizer.
        longer: pieces of all texts with the cut tokenizer, over those before.
    """

    texts: int
    same: float
    unknown_before: float
    unknown_after: float
    longer: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def coverage(
    before: PreTrainedTokenizerBase,
    after: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    texts: Iterable[Text],
) -> Coverage:
    """Split texts with a tokenizer and with the one that `cut_tokenizer` made of it, and compare.

    Raises:
        UserError: there is no text, or one is none.
    """
    texts = list(checked_texts(texts))
    if not texts:
        raise UserError("the coverage of a vocabulary needs at least one text, got none")
    return rows_coverage(before, vocabulary, *([*_split(backend_of(one), texts)] for one in (before, after)))


def rows_coverage(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
) -> Coverage:
    """As `coverage`, of texts that are encoded already, with special tokens or without.

    Args:
        tokenizer: the one before.
        before, after: the numbers of the pieces of each text, by the tokenizer before and by the cut one.
    """
    unknown = algorithm_of(content := content_of(tokenizer)["model"]).unknown(content)
    new = [[vocabulary.kept[number] for number in row] for row in after]
    return Coverage(
        texts=len(before),
        same=sum([*one] == other for one, other in zip(before, new, strict=True)) / len(before),
        unknown_before=_share(before, unknown),
        unknown_after=_share(new, unknown),
        longer=sum(map(len, new)) / max(sum(map(len, before)), 1),
    )


def _share(rows: Sequence[Sequence[int]], piece: int | None) -> float:
    """The share of a piece in all pieces of the rows."""
    return sum(row.count(piece) for row in rows if piece is not None) / max(sum(map(len, rows)), 1)


def _split(backend: Tokenizer, texts: Iterable[Text]) -> Iterator[list[int]]:
    """The pieces of every text, whole and without special tokens."""
    whole = copy.deepcopy(backend)  # its settings are changed
    whole.encode_special_tokens = backend.encode_special_tokens
    whole.no_truncation()
    whole.no_padding()
    for batch in _batches(texts):
        for split, alike in groupby(batch, lambda text: not isinstance(text, str)):
            for encoding in whole.encode_batch_fast([*alike], is_pretokenized=split, add_special_tokens=False):
                yield encoding.ids


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
