"""Free disk, and numbers of bytes in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """The free disk where a folder is, or would be created."""
    absolute = folder.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def folder_bytes(folder: Path) -> int:
    """The bytes of all files in a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: float, form: Callable[[float, str], str] = format) -> str:
    """A number of bytes, in MB (10^6) or GB (10^9).

    Args:
        form: `quantities.at_least` for a size that a limit must have, `at_most` for a limit.
    """
    return f"{form(count / 1e6, '.0f')} MB" if count < 1e9 else f"{form(count / 1e9, '.1f')} GB"
