"""What the command prints of an error: one sentence for what a user can fix, and any other error as it is.

Only an error that says itself that a disk is full or a place cannot be written is explained so: by its number, and not
by its words or by another error that was being handled when it was raised.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator

from secateur.cli.option_words import in_options
from secateur.system.errors import InRecipe, NothingToKeep, UserError
from secateur.system.version import VERSION

GOAL_MISSED = 3
"""The exit code of a finished run whose model keeps less of the score than `--keep-score` asked for, and of a run that
ended because its teacher has no score to keep."""
MISTAKE = 2
"""The exit code of the user's mistake."""
UNEXPECTED = 4
"""The exit code of an error that is not the user's mistake."""
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RUST = re.compile(r"\(os error (\d+)\)")
"""How errors of libraries in Rust, such as safetensors, give the number of the system's error."""
PYTORCH_WRITER = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|basic_ios::clear: iostream error")
"""PyTorch's writer of archives gives no number; these are its own errors, which only a failed write raises."""


def explained(error: Exception) -> str | None:
    """What the user can do about an error; None if it is not the user's mistake."""
    if isinstance(error, UserError):
        return str(error) if isinstance(error, InRecipe) else in_options(str(error))
    for cause in _causes(error):
        number = _number(cause)
        if number in LOCKED and getattr(cause, "filename", None):
            return f"a place cannot be read or written ({cause}): choose another, or allow it and repeat the command"
        if number in FULL or _is_failed_write(cause):
            return f"the disk is full ({cause}): free space and repeat the command"
    return None


def ended_by(error: Exception) -> tuple[str, int]:
    """What is printed of an error that ends a command, and the exit code."""
    if (sentence := explained(error)) is None:
        return unexpected(error), UNEXPECTED
    sentence = " ".join(sentence.split())
    return (sentence, GOAL_MISSED) if isinstance(error, NothingToKeep) else (f"error: {sentence}", MISTAKE)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was explicitly raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _number(error: BaseException) -> int | None:
    """The number of the system's error that this one reports."""
    if isinstance(error, OSError):
        return error.errno
    found = RUST.search(str(error))
    return int(found[1]) if found else None


def _is_failed_write(error: BaseException) -> bool:
    """Whether this is an error of PyTorch's writer, raised in its code."""
    frames = traceback.extract_tb(error.__traceback__)
    in_writer = bool(frames) and os.path.basename(frames[-1].filename) == "serialization.py"
    return type(error) is RuntimeError and in_writer and bool(PYTORCH_WRITER.search(str(error)))


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
