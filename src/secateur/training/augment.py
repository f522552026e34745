"""Changed copies of training texts, for a teacher to label: words drop out, swap, or all but a span of them goes.

    rows = augmented(rows, tokenizer, copies=2, seed=0)     # the originals, then every one changed, then again

Copies are made of token ids, once, so that whatever is kept of a row by its number, such as a teacher's outputs, is
kept of copies as well. Nothing is tokenized again and nothing comes from outside. Whether a changed text still means
what it did only its teacher can say: rows for this have no labels of their own.

Sources: dropping and swapping words are "random deletion" and "random swap" of Wei and Zou 2019 (arXiv:1901.11196,
section 2), here of neighbours; spans and a teacher's labels are of Tang et al. 2019 (arXiv:1903.12136, section 3.2,
"n-gram sampling"), here of at least half a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Word = list[int]
"""Where the tokens of a word are in their row."""

DROP, SWAP = 0.15, 0.15
"""How probable it is that a word drops out, or swaps its place with the next."""
INSIDE = "##"
"""Begins a token that goes on with a word (WordPiece)."""
SPACES = ("Ġ", "▁")
"""Begins a token that is the first of a word (byte-level BPE, SentencePiece)."""


def augmented(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, copies: int, seed: int) -> list[Row]:
    """The rows' model inputs, then those of `copies` changed copies of each: all rows once, all again, and so on.

    A copy is of one kind, each of `KINDS` as likely, drawn by `seed`; the first copies are the same however many there
    are. Each text of a pair is changed alone. Special tokens stay, every text keeps a word, and a text of one word is
    copied as it is.

    Args:
        rows: encoded and unpadded, a list a column; what is no input of the model (`labels`) is left out.
        tokenizer: what encoded them; it says which tokens are special, and which are one word. Words that it does not
            mark in its vocabulary are moved token by token; the first of a text may lack the mark of its space, and
            takes that along.
    """
    given = [{name: row[name] for name in tokenizer.model_input_names if name in row} for row in rows]
    texts, draw = _Texts(tokenizer), Random(seed)
    return given + [_changed(row, texts, draw) for _ in range(copies) for row in given]


def _changed(row: Row, texts: _Texts, draw: Random) -> Row:
    kind = draw.choice(KINDS)
    words = chain.from_iterable(kind(text, draw) if len(text) > 1 else text for text in texts.of(row))
    places = list(chain.from_iterable(words))
    return {name: [values[place] for place in places] for name, values in row.items()}


# The kinds: each takes a text of at least two words, and changes it


def drop(words: Sequence[Word], draw: Random) -> list[Word]:
    """Without each of the words with probability `DROP`; at least one goes and one stays."""
    stays = [draw.random() >= DROP for _ in words]
    if len(set(stays)) == 1:
        one = draw.randrange(len(words))
        stays[one] = not stays[one]
    return [word for word, left in zip(words, stays, strict=True) if left]


def swap(words: Sequence[Word], draw: Random) -> list[Word]:
    """From the first to the last but one, each with probability `SWAP` in the place of the next; at least one is."""
    pairs = range(len(words) - 1)
    moved = list(words)
    for place in [place for place in pairs if draw.random() < SWAP] or [draw.choice(pairs)]:
        moved[place : place + 2] = moved[place + 1], moved[place]
    return moved


def crop(words: Sequence[Word], draw: Random) -> list[Word]:
    """A span of at least half of the words and not all, every length as likely, and every place."""
    length = draw.randint((len(words) + 1) // 2, len(words) - 1)
    first = draw.randint(0, len(words) - length)
    return list(words[first : first + length])


KINDS: tuple[Callable[[Sequence[Word], Random], list[Word]], ...] = (drop, swap, crop)


# Words


class _Texts:
    """Reads rows as texts and their words.

    A token that must stay is a text of its own: one of a single word, which no kind changes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.fixed, self.inside = _fixed(tokenizer), _inside(tokenizer.get_vocab())

    def of(self, row: Row) -> list[list[Word]]:
        """The texts in their order; they end at special tokens, and where `token_type_ids` change."""
        ids = row["input_ids"]
        types = row.get("token_type_ids", [0] * len(ids))
        found: list[list[Word]] = []
        for place, token in enumerate(ids):
            before = place - 1
            if place == 0 or not self.fixed.isdisjoint((token, ids[before])) or types[place] != types[before]:
                found.append([[place]])
            elif token in self.inside:
                found[-1][-1].append(place)
            else:
                found[-1].append([place])
        return found


def _fixed(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens; not the unknown one, which stands for a word, unless it has another role too."""
    named = tokenizer.special_tokens_map
    kept = {token for role, token in named.items() if role != "unk_token"}
    pairs = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return frozenset(number for token, number in pairs if token in kept or token != named.get("unk_token"))


def _inside(vocabulary: dict[str, int]) -> frozenset[int]:
    """Tokens that go on with a word, by the mark that most of the vocabulary has; none where there is no mark."""
    marked = {mark: {n for token, n in vocabulary.items() if token.startswith(mark)} for mark in (INSIDE, *SPACES)}
    mark = max(marked, key=lambda name: len(marked[name]))
    if not marked[mark]:
        return frozenset()
    return frozenset(marked[mark] if mark == INSIDE else set(vocabulary.values()) - marked[mark])
