"""What the algorithms of tokenizers need of a vocabulary, and how their models are cut.

The functions read and write the object `model` of a `tokenizer.json`, and never split a text. Whatever pieces are
wanted, the closure adds those without which a text of wanted pieces could be split in another way:

- WordPiece (Wu et al., 2016) takes the longest piece at each place of a word. A longest piece that is kept is still the
  longest, so nothing needs to be added.
- Byte-pair encoding (Sennrich et al., 2016) applies the first merge of its list that fits, until none fits. All merges
  that can lead to a wanted piece are kept, with their parts, and in their order. On a text of wanted pieces the merge
  that is applied next is therefore among the kept ones, and the first of those that fit.
- Unigram (Kudo, 2018) takes the split with the largest sum of scores. If all pieces of this split are kept, it is still
  the best of those that are left. The score of an unknown character is derived from the smallest score, so the piece
  with the smallest score is kept as well.

Single characters are kept by each of them, so that a word with a piece that was removed falls into smaller pieces and
not into the unknown token. Of WordPiece, whose vocabulary may have a character inside longer pieces alone, these are
kept; as it never goes back, a word may still become unknown where a piece before such a one was removed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.system.errors import UserError

Model = Mapping[str, Any]
"""The object `model` of a `tokenizer.json`."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece that stands for one byte of an unknown character."""


@dataclass(frozen=True)
class Algorithm:
    """What one algorithm needs.

    Attributes:
        closure: the model, wanted numbers -> these numbers and all that they need.
        cut: the model, old number -> new number of kept pieces -> the model with the kept pieces.
        unknown: the model -> the number of the unknown token, or None.
    """

    closure: Callable[[Model, set[int]], set[int]]
    cut: Callable[[Model, Mapping[int, int]], dict[str, Any]]
    unknown: Callable[[Model], int | None]


def algorithm_of(model: Model) -> Algorithm:
    """The algorithm of a model.

    Raises:
        UserError: its vocabulary cannot be cut.
    """
    name = model.get("type")
    if name not in ALGORITHMS:
        raise UserError(
            f"the vocabulary of a tokenizer of type {name!r} cannot be cut: expected one of {', '.join(ALGORITHMS)}"
        )
    return ALGORITHMS[name]


def pieces_of(model: Model) -> dict[str, int]:
    """Piece -> its number, without added tokens that the model does not have."""
    vocab = model["vocab"]
    return dict(vocab) if isinstance(vocab, Mapping) else {piece: number for number, (piece, _) in enumerate(vocab)}


def _characters(model: Model) -> set[int]:
    """Pieces of one character or byte, also those that can only continue or end a word, and the unknown token."""
    prefix, suffix = (model.get(key) or "" for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    unknown = algorithm_of(model).unknown(model)
    return {
        number
        for piece, number in pieces_of(model).items()
        if 1 in (len(piece), len(piece.removeprefix(prefix).removesuffix(suffix)))
        or BYTE.fullmatch(piece)
        or number == unknown
    }


def _unknown_token(model: Model) -> int | None:
    return pieces_of(model).get(model.get("unk_token") or "")


def _cut_pieces(model: Model, numbers: Mapping[int, int]) -> dict[str, Any]:
    kept = {piece: numbers[number] for piece, number in model["vocab"].items() if number in numbers}
    return {**model, "vocab": dict(sorted(kept.items(), key=lambda item: item[1]))}


# Words


def _words_closure(model: Model, wanted: set[int]) -> set[int]:
    unknown = _unknown_token(model)
    return wanted if unknown is None else wanted | {unknown}


# WordPiece


def _wordpiece_closure(model: Model, wanted: set[int]) -> set[int]:
    """Pieces with a character that has no piece of its own at its place are the only ones that hold it."""
    pieces, prefix = pieces_of(model), model["continuing_subword_prefix"]
    only = {number for piece, number in pieces.items() if not pieces.keys() >= _single(piece, prefix)}
    return wanted | _characters(model) | only


def _single(piece: str, prefix: str) -> set[str]:
    """The pieces of one character that a piece of WordPiece would fall into."""
    first = "" if not piece.startswith(prefix) else prefix
    body = piece.removeprefix(prefix)
    return {first + body[:1], *(prefix + character for character in body[1:])}


# Byte-pair encoding


def _bpe_closure(model: Model, wanted: set[int]) -> set[int]:
    """Several merges may result in one piece: all of them are kept, because a text may need any of them."""
    numbers = pieces_of(model)
    parts: dict[int, set[int]] = defaultdict(set)
    for merge, result in _results(model):
        parts[numbers[result]] |= {numbers[part] for part in merge}
    return _reachable(wanted | _characters(model), parts)


def _results(model: Model) -> list[tuple[tuple[str, str], str]]:
    """Every merge with its resulting piece, in order."""
    skipped = len(model.get("continuing_subword_prefix") or "")
    return [((left, right), left + right[skipped:]) for left, right in model["merges"]]


def _reachable(start: Iterable[int], parts: Mapping[int, set[int]]) -> set[int]:
    reached, waiting = set[int](), list(start)
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            waiting.extend(parts.get(number, ()))
    return reached


def _cut_bpe(model: Model, numbers: Mapping[int, int]) -> dict[str, Any]:
    cut = _cut_pieces(model, numbers)
    merges = [list(merge) for merge, result in _results(model) if {*merge, result} <= cut["vocab"].keys()]
    return {**cut, "merges": merges}


# Unigram


def _unigram_closure(model: Model, wanted: set[int]) -> set[int]:
    """Classes of transformers load their unknown token under a fixed number, so no piece before it is removed."""
    vocab = model["vocab"]
    lowest = min(range(len(vocab)), key=lambda number: vocab[number][1])
    unknown = -1 if model["unk_id"] is None else model["unk_id"]
    return wanted | _characters(model) | {lowest} | set(range(unknown + 1))


def _cut_unigram(model: Model, numbers: Mapping[int, int]) -> dict[str, Any]:
    unknown = model["unk_id"]
    return {
        **model,
        "vocab": [entry for number, entry in enumerate(model["vocab"]) if number in numbers],
        "unk_id": None if unknown is None else numbers[unknown],
    }


ALGORITHMS = {
    "WordPiece": Algorithm(_wordpiece_closure, _cut_pieces, _unknown_token),
    "BPE": Algorithm(_bpe_closure, _cut_bpe, _unknown_token),
    "Unigram": Algorithm(_unigram_closure, _cut_unigram, lambda model: model["unk_id"]),
    "WordLevel": Algorithm(_words_closure, _cut_pieces, _unknown_token),
}
"""Type of a model -> its algorithm."""
