"""Errors that say themselves that a disk is full or a place cannot be used, whichever library raises them.

They are known by their number, and not by their words or by another error that was being handled when they were raised.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator

from secateur.system.errors import NoRoom

LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RUST = re.compile(r"\(os error (\d+)\)")
"""How errors of libraries in Rust, such as safetensors, give the number of the system's error."""
PYTORCH_WRITER = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|basic_ios::clear: iostream error")
"""PyTorch's writer of archives gives no number; these are its own errors, which only a failed write raises."""


def full_disk(error: BaseException) -> BaseException | None:
    """The error, or the one that it was explicitly raised from, that says that a disk is full; None if neither does."""
    for cause in causes(error):
        if isinstance(cause, NoRoom) or number_of(cause) in FULL or _is_failed_write(cause):
            return cause
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was explicitly raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def number_of(error: BaseException) -> int | None:
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
