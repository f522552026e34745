"""Permissions of what is written: those that the umask of the process allows, as for any new file.

Temporary folders are private, and safetensors writes private files (0600, in 0.8) whatever the umask is.
"""

from __future__ import annotations

import stat
from pathlib import Path
from uuid import uuid4

READ_WRITE = 0o666


def open_file(path: Path) -> None:
    """Give a file the permissions of a new one in its folder."""
    path.chmod(_mode_in(path.parent) & READ_WRITE)


def open_folder(folder: Path) -> None:
    """Give a folder and all files and folders in it the permissions of new ones."""
    mode = _mode_in(folder)
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & READ_WRITE)
    folder.chmod(mode)


def _mode_in(folder: Path) -> int:
    """The permissions of a new folder in a folder, with its group for all in it (setgid) where that is inherited.

    Reading the umask itself would change it for all threads.
    """
    probe = folder / f".{uuid4().hex}"
    probe.mkdir()
    try:
        return probe.stat().st_mode & (0o777 | stat.S_ISGID)
    finally:
        probe.rmdir()
