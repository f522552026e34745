"""The one exception for what a user can mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in what was asked: one sentence saying what was expected, what came, and what to do.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """


@contextmanager
def as_user_error(failure: str, advice: str) -> Iterator[None]:
    """Any exception as one sentence: broken files, foreign folders and an absent hub raise all kinds."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        raise UserError(f"{failure} ({reason}): {advice}") from error
