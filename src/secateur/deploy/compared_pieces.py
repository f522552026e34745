"""Whether a tokenizer with a cut vocabulary splits texts as the tokenizer before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.structure.vocabulary import Vocabulary

Pieces = Sequence[int]


@dataclass(frozen=True)
class ComparedPieces:
    """How many texts were split by both tokenizers.

    Attributes:
        texts: all of them.
        kept: those whose pieces, by the tokenizer before, are all kept.
        equal: of these, those that the cut tokenizer splits into the same pieces.
    """

    texts: int
    kept: int
    equal: int

    @property
    def passed(self) -> bool:
        """Whether every text whose pieces are all kept is split as before."""
        return self.equal == self.kept


def compared_pieces(vocabulary: Vocabulary, before: Sequence[Pieces], after: Sequence[Pieces]) -> ComparedPieces:
    """Compare the pieces of the same texts by the tokenizer before, and by the cut one in its own numbers."""
    kept = [number for number, pieces in enumerate(before) if vocabulary.numbers.keys() >= {*pieces}]
    equal = sum(vocabulary.renumbered(before[number]) == [*after[number]] for number in kept)
    return ComparedPieces(len(before), len(kept), equal)
