"""Where the splits of a task come from: their names in the data, and what was guessed when they were read.

A task has a "train" and a "validation" split, whatever these are called in the data. What is shown to people names the
rows as the data does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset, DatasetDict

from secateur.tasks.columns import holds_text, listed, usual_columns

SAMPLE = 100
"""Rows that are looked at to find out whether a column holds texts of several words."""


@dataclass(frozen=True)
class Origin:
    """Where the splits of a task come from.

    Attributes:
        train: the name in the data of the split that is trained on.
        scored: the name of the split that is scored; None for rows that are split off the training rows.
        columns: the names in the data of the columns in use, if the task gives them names of its own.
        guesses: what was guessed, each with the option that states it otherwise.
    """

    train: str = "train"
    scored: str | None = "validation"
    columns: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()

    @property
    def rows(self) -> str:
        """The scored rows, as texts name them."""
        return rows_of(self.scored)

    @property
    def names(self) -> dict[str, str | None]:
        """The key of each split of the task -> its name in the data."""
        return {"train": self.train, "validation": self.scored}


class Splits(DatasetDict):
    """Splits with their origin."""

    def __init__(self, splits: Mapping[str, Dataset], origin: Origin) -> None:
        super().__init__(splits)
        self.origin = origin


def origin_of(splits: DatasetDict) -> Origin:
    """The origin of splits; the default where it is not known."""
    return splits.origin if isinstance(splits, Splits) else Origin()


def rows_of(split: str | None) -> str:
    """The rows of a split that is scored, as texts name them; None for rows that are split off the training rows."""
    return "rows split off from training" if split is None else f"{split} rows"


def guess(what: str, taken: Sequence[str], others: Sequence[str], options: str) -> tuple[str, ...]:
    """The guess that some columns are meant and others are not; nothing if there are no others.

    Args:
        what: the columns hold, for the text.
        taken, others: names of columns.
        options: of the command line, by which the user names the columns.
    """
    return (f"{what} from {listed(taken)}, not {listed(others)} ({options})",) if others else ()


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
    others = [name for name in shared if name not in taken and name not in used and _holds_words(split, name)]
    return guess("texts", taken, others, "--text")


def _holds_words(split: Dataset, column: str) -> bool:
    """Whether a column holds a text of several words in the first rows."""
    if not holds_text(split, column):
        return False
    values = split.select_columns([column]).with_format(None)[:SAMPLE][column]
    return any(len((value or "").split()) > 1 for value in values)
