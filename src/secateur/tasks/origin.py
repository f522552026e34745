"""Where the splits of a task come from: their names in the data, and what was guessed when they were read.

A task has a "train" and a "validation" split, whatever these are called in the data. What is shown to people names the
rows as the data does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class Origin:
    """Where the splits of a task come from.

    Attributes:
        train: the name in the data of the split that is trained on.
        scored: the name of the split that is scored; None for rows that are split off the training rows.
        unread: the names of other labelled splits, which are not used, where the scored rows are not those of a
            validation split.
        columns: the names in the data of the columns in use, if the task gives them names of its own.
        guesses: what was guessed, each with the option that states it otherwise.
    """

    train: str = "train"
    scored: str | None = "validation"
    unread: tuple[str, ...] = ()
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

    def name(self, key: str) -> str:
        """The name in the data of a split of the task, for messages; the key itself if it has none."""
        return self.names.get(key) or key


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
