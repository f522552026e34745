"""Rows that all have the same answer: nothing is learned from them, and no score of them tells models apart."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from secateur.system.errors import UserError
from secateur.tasks.task import Task


@runtime_checkable
class Answered(Protocol):
    """A task that knows what is to be predicted for its rows."""

    def only_answer(self, split: str) -> str | None:
        """In words what is to be predicted for all rows of a split, such as "the label good"; None if they differ."""


def check_training_answers(task: Task) -> None:
    """Refuse training rows from which nothing can be learned, such as a few that are kept of all.

    Raises:
        UserError: all training rows have the same answer.
    """
    answer = task.only_answer("train") if isinstance(task, Answered) else None
    if answer is not None:
        count = len(task.splits["train"])
        have = "the only training row in use has" if count == 1 else f"all {count} training rows in use have"
        raise UserError(f"{have} {answer}: use more of them (--rows), or data with several")


def check_scored_answers(task: Task) -> None:
    """Refuse scored rows for which a constant answer is the best, such as the end of a file sorted by label.

    Raises:
        UserError: all scored rows have the same answer.
    """
    answer = task.only_answer("validation") if isinstance(task, Answered) else None
    if answer is not None:
        count, rows = len(task.splits["validation"]), task.origin.rows
        have = f"the only one of the {rows} has" if count == 1 else f"all {count} {rows} have"
        raise UserError(
            f"{have} {answer}, so that a constant answer is the best: give scored rows with several, or name another "
            "split to score"
        )
