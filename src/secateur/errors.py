"""The one exception for what a user can mend."""


class UserError(ValueError):
    """A mistake in what was asked: one sentence saying what was expected, what came, and what to do.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """
