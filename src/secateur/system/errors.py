"""The exception for mistakes that a user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in the user's input: one sentence that says what was expected, what came, and what to do.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """


class MissingPackage(UserError):
    """A package is needed that is not installed; the sentence says how to install it."""


class NothingToKeep(UserError):
    """A run that ends before there is a model, because its teacher has no score to keep; the sentence is its verdict.

    The command line prints the sentence and exits with code 3.
    """


class NoRoom(UserError):
    """A disk has no room for what is to be written."""


class FolderInUse(UserError):
    """Another process uses the folder of a run, which is free again when that ends."""


class InRecipe(UserError):
    """A mistake in a recipe file, whose keys are the words of the sentence; of other mistakes, options are."""


@contextmanager
def as_user_error(failure: str, advice: str) -> Iterator[None]:
    """Turn any exception of the block into a `UserError`: libraries raise many types for damaged files and for the hub.

    Args:
        failure: what has failed, the beginning of the sentence.
        advice: what to do, its end.
    """
    try:
        yield
    except Exception as error:
        raise UserError(f"{failure} ({reason_of(error)}): {advice}") from error


def reason_of(error: Exception) -> str:
    """The first line of what an exception of a library says, to stand within a sentence; else the name of its type."""
    return str(error).strip().partition("\n")[0][:300].rstrip(".:") or type(error).__name__
