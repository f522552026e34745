"""What the command prints of an error: one sentence for what a user can fix, and any other error as it is.

Only an error that says itself that a disk is full or a place cannot be written is explained so (`system.disk_errors`).
"""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback

from secateur.cli.option_words import in_options
from secateur.system.disk_errors import LOCKED, causes, full_disk, number_of
from secateur.system.errors import InRecipe, NothingToKeep, UserError
from secateur.system.version import VERSION

GOAL_MISSED = 3
"""The exit code of a finished run whose model keeps less of the score than `--keep-score` asked for, and of a run that
ended because its teacher has no score to keep."""
MISTAKE = 2
"""The exit code of the user's mistake."""
UNEXPECTED = 4
"""The exit code of an error that is not the user's mistake."""


def explained(error: Exception) -> str | None:
    """What the user can do about an error; None if it is not the user's mistake."""
    if isinstance(error, UserError):
        return str(error) if isinstance(error, InRecipe) else in_options(str(error))
    if (cause := full_disk(error)) is not None:
        return f"the disk is full ({cause}): free space and repeat the command"
    for cause in causes(error):
        if number_of(cause) in LOCKED and getattr(cause, "filename", None):
            return f"a place cannot be read or written ({cause}): choose another, or allow it and repeat the command"
    return None


def ended_by(error: Exception) -> tuple[str, int]:
    """What is printed of an error that ends a command, and the exit code."""
    if (sentence := explained(error)) is None:
        return unexpected(error), UNEXPECTED
    sentence = " ".join(sentence.split())
    return (sentence, GOAL_MISSED) if isinstance(error, NothingToKeep) else (f"error: {sentence}", MISTAKE)


def unexpected(error: Exception) -> str:
    """What is printed of an error that is not the user's mistake: the error, and where its traceback is."""
    what = f"unexpected error: {type(error).__name__}: {error}"
    details = _details(error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="secateur-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(details)
    except OSError:
        return f"{details}\n{what}"
    report = f"please report it with {file.name}, which has the traceback, and with the output of `secateur doctor`"
    return f"{what}\nThis is a bug of secateur: {report}."


def _details(error: Exception) -> str:
    """The command, the versions and the traceback."""
    versions = f"secateur {VERSION}, Python {platform.python_version()}, {platform.platform()}"
    return f"{' '.join(sys.argv)}\n{versions}\n\n{''.join(traceback.format_exception(error))}"
