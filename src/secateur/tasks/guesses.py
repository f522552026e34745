"""What was guessed of the columns of data, each in words, with the option that states it otherwise."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from datasets import Dataset

from secateur.tasks.columns import holds_text, listed, usual_columns
from secateur.tasks.scripts_of_texts import UNSEGMENTED, script_of

SAMPLE = 100
"""Rows that are looked at to find out whether a column holds texts of several words."""
LETTERS_OF_A_WORD = 6
"""Letters of a script without spaces between words, at most, that are taken for one word."""


def guess(what: str, taken: Sequence[str], others: Sequence[str], options: str) -> tuple[str, ...]:
    """The guess that some columns are meant and others are not; nothing if there are no others.

    Args:
        what: the columns hold, for the text.
        taken, others: names of columns.
        options: of the command line, by which the user names the columns.
    """
    return (f"{what} from {listed(taken)}, not {listed(others)} ({options})",) if others else ()


def guessed_split(train: str, scored: str | None, others: Sequence[str], option: str) -> tuple[str, ...]:
    """The guess that some rows are to be scored and other splits are not; nothing if there are no others.

    Args:
        train, scored: the names of the splits in use; None for rows that are split off the training rows.
        others: the names of the other splits.
        option: of the command line, by which the user names one.
    """
    what = f"scored rows split off from {train}" if scored is None else f"scored rows from {scored}"
    return (f"{what}, not from {listed(others)} ({option}={others[0]})",) if others else ()


def guessed_label(
    what: str, shared: Sequence[str], taken: str, asked: str | None, usual: Sequence[str], used: Collection[str] = ()
) -> tuple[str, ...]:
    """The guess that one of several columns with usual names holds the labels; nothing if the user names it.

    Args:
        what: the column holds, for the text.
        shared: the columns that every split has.
        taken: the column that is taken.
        asked: the column that the user names.
        usual: the usual names.
        used: columns that are used otherwise.
    """
    found = [name for (name,) in usual_columns(shared, [(name,) for name in usual])]
    others = [name for name in dict.fromkeys(found) if name != taken and name not in used]
    return () if asked else guess(what, [taken], others, "--label")


def guessed_texts(
    split: Dataset, shared: Sequence[str], taken: Sequence[str], asked: object, used: Collection[str] = ()
) -> tuple[str, ...]:
    """The guess that some of the columns of texts are meant; nothing if the user names them.

    Args:
        split: the training split.
        shared, used: as for `guessed_label`.
        taken: the columns that are taken.
        asked: the columns that the user names, if any.
    """
    if asked:
        return ()
    others = [name for name in shared if name not in taken and name not in used and holds_words(split, name)]
    return guess("texts", taken, others, "--text")


def holds_words(split: Dataset, column: str) -> bool:
    """Whether a column holds a text of several words in the first rows, in a script with spaces or without."""
    if not holds_text(split, column):
        return False
    values = split.select_columns([column])[:SAMPLE][column]
    return any(_has_words(value or "") for value in values)


def _has_words(text: str) -> bool:
    return len(text.split()) > 1 or sum(script_of(letter) in UNSEGMENTED for letter in text) > LETTERS_OF_A_WORD
