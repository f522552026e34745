"""Data augmentation for distillation: changed copies of training texts, which the teacher labels.

    rows = augmented(rows, tokenizer, copies=2, seed=0)     # the originals, a changed copy of each, and another one

A copy drops words, swaps neighbouring words, or keeps a span of them. Copies are made once and from token ids, so that
what is cached by the number of a row, such as a teacher's outputs, is cached for copies too. Nothing is tokenized
again, and no other text is used. A change may alter the meaning of a text, so copies have no labels: only the teacher's
outputs are compared.

Sources: dropping and swapping words are "random deletion" and "random swap" of Wei and Zou 2019 (arXiv:1901.11196,
section 2), the latter restricted to neighbours. Spans labelled by a teacher are from Tang et al. 2019
(arXiv:1903.12136, section 3.2, "n-gram sampling"), restricted to at least half a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Word = list[int]
"""The positions of a word's tokens in their row."""

DROP, SWAP = 0.15, 0.15
"""The probability that a word is dropped, or swapped with the next one."""
CONTINUES = "##"
"""The prefix of a token that continues a word (WordPiece)."""
SPACES = ("Ġ", "▁")
"""The prefixes of a token that begins a word (byte-level BPE, SentencePiece)."""


def augmented(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, copies: int, seed: int) -> list[Row]:
    """The rows' model inputs, followed by `copies` changed copies of all rows, one copy of all rows after the other.

    Each copy is changed in one way, sampled uniformly from `CHANGES`. The first copies do not depend on how many are
    made. The texts of a pair are changed separately. Special tokens stay, every text keeps at least one word, and a
    text of one word is copied unchanged.

    Args:
        rows: encoded and unpadded, a list a column; columns that the model does not read (`labels`) are left out.
        tokenizer: what encoded them; it says which tokens are special and which belong to one word. Where its
            vocabulary does not mark words, each token is a word. The first word of a text may lack the mark of a space;
            it is moved as it is.
    """
    inputs = [{name: row[name] for name in tokenizer.model_input_names if name in row} for row in rows]
    texts, random = _Texts(tokenizer), Random(seed)
    return inputs + [_changed(row, texts, random) for _ in range(copies) for row in inputs]


def _changed(row: Row, texts: _Texts, random: Random) -> Row:
    change = random.choice(CHANGES)
    words = chain.from_iterable(change(text, random) if len(text) > 1 else text for text in texts.of(row))
    positions = list(chain.from_iterable(words))
    return {name: [values[position] for position in positions] for name, values in row.items()}


# Changes of a text of at least two words


def drop(words: Sequence[Word], random: Random) -> list[Word]:
    """Drop each word with probability `DROP`; at least one is dropped and at least one is kept."""
    kept = [random.random() >= DROP for _ in words]
    if len(set(kept)) == 1:
        one = random.randrange(len(words))
        kept[one] = not kept[one]
    return [word for word, stays in zip(words, kept, strict=True) if stays]


def swap(words: Sequence[Word], random: Random) -> list[Word]:
    """From left to right, swap each word with the next with probability `SWAP`; at least one pair is swapped."""
    pairs = range(len(words) - 1)
    moved = list(words)
    for first in [first for first in pairs if random.random() < SWAP] or [random.choice(pairs)]:
        moved[first : first + 2] = moved[first + 1], moved[first]
    return moved


def crop(words: Sequence[Word], random: Random) -> list[Word]:
    """Keep a span of at least half of the words, but not all; its length and its start are uniform."""
    length = random.randint((len(words) + 1) // 2, len(words) - 1)
    first = random.randint(0, len(words) - length)
    return list(words[first : first + length])


CHANGES: tuple[Callable[[Sequence[Word], Random], list[Word]], ...] = (drop, swap, crop)


# Words


class _Texts:
    """Splits rows into texts and their words.

    A token that must stay is a text of its own: one of a single word, which no change applies to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.fixed, self.continuing = _fixed(tokenizer), _continuing(tokenizer.get_vocab())

    def of(self, row: Row) -> list[list[Word]]:
        """The texts in their order; they are separated by special tokens and by changes of `token_type_ids`."""
        ids = row["input_ids"]
        types = row.get("token_type_ids", [0] * len(ids))
        texts: list[list[Word]] = []
        for position, token in enumerate(ids):
            before = position - 1
            if position == 0 or not self.fixed.isdisjoint((token, ids[before])) or types[position] != types[before]:
                texts.append([[position]])
            elif token in self.continuing:
                texts[-1][-1].append(position)
            else:
                texts[-1].append([position])
        return texts


def _fixed(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that stay. The unknown token stands for a word and does not, unless it also has another role."""
    roles = tokenizer.special_tokens_map
    others = {token for role, token in roles.items() if role != "unk_token"}
    pairs = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return frozenset(number for token, number in pairs if token in others or token != roles.get("unk_token"))


def _continuing(vocabulary: dict[str, int]) -> frozenset[int]:
    """Tokens that continue a word, by the prefix that most of the vocabulary has; none where no token has a prefix."""
    marked = {mark: {n for token, n in vocabulary.items() if token.startswith(mark)} for mark in (CONTINUES, *SPACES)}
    mark = max(marked, key=lambda name: len(marked[name]))
    if not marked[mark]:
        return frozenset()
    return frozenset(marked[mark] if mark == CONTINUES else set(vocabulary.values()) - marked[mark])
