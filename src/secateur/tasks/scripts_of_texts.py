"""The scripts of texts, and words of texts in any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from unicodedata import category, name, normalize

LATIN, CHINESE, JAPANESE, KOREAN = "Latin", "Chinese", "Japanese", "Korean"
THAI, LAO, BURMESE, KHMER = "Thai", "Lao", "Burmese", "Khmer"
RANGES: Mapping[str, tuple[tuple[int, int], ...]] = {
    CHINESE: ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    JAPANESE: ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),  # kana, beside Chinese characters
    KOREAN: ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    THAI: ((0x0E00, 0x0E7F),),
    LAO: ((0x0E80, 0x0EFF),),
    BURMESE: ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    KHMER: ((0x1780, 0x17FF),),
}
"""Scripts, and the first and the last number of the characters in each of their blocks."""
UNSEGMENTED = (CHINESE, JAPANESE, THAI, LAO, BURMESE, KHMER)
"""Scripts that are written without spaces between words."""
MOST_TEXTS = 1000
"""Texts of which letters are counted, at most."""
KANA = 0.05
"""Of the Chinese and Japanese letters of Japanese texts, those that are kana at least."""


@lru_cache(maxsize=2**16)
def script_of(letter: str) -> str | None:
    """The script of a letter: `LATIN`, one of `RANGES`, or None for another."""
    number = ord(letter)
    found = (script for script, blocks in RANGES.items() if any(first <= number <= last for first, last in blocks))
    return next(found, LATIN if name(letter, "").startswith("LATIN") else None)


def script_of_texts(texts: Iterable[str]) -> str | None:
    """The script of most letters of some texts: `LATIN`, one of `RANGES`, or None for another, or without letters."""
    letters = (letter for text in islice(texts, MOST_TEXTS) for letter in text if category(letter)[0] == "L")
    counts = Counter(map(script_of, letters))
    kana, both = counts[JAPANESE], counts[JAPANESE] + counts[CHINESE]
    if kana > KANA * both:
        counts[JAPANESE], counts[CHINESE] = both, 0
    return counts.most_common(1)[0][0] if counts else None


def has_letters(texts: Iterable[str]) -> bool:
    """Whether any of some texts has a letter."""
    return any(character.isalpha() for text in texts for character in text)


class WordTokenizer:
    """Divides texts in any script, as a tokenizer of the library rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text in lower case, and each letter of the scripts in `UNSEGMENTED` as a word of its own.

        Words consist of letters, their marks, and digits, in compatible forms (NFKC), which tokenizers of models make
        of texts too.
        """
        words: list[str] = []
        open_word = False
        for character in normalize("NFKC", text).lower():
            kind = category(character)[0]
            if kind == "M" and words:
                words[-1] += character
            elif kind not in "LN":
                open_word = False
            elif script_of(character) in UNSEGMENTED:
                words.append(character)
                open_word = False
            elif open_word:
                words[-1] += character
            else:
                words.append(character)
                open_word = True
        return words
