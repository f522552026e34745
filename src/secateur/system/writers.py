"""Which process writes a temporary folder, so that the folders of killed writers can be removed, and no others.

The number of a process alone proves nothing: on another host, in another container or after a restart it belongs to
another process. The name of a temporary folder therefore also has the place in which that number counts:
`.NAME.PLACE.PID.RANDOM`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path

import psutil

BOOT_ID, PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a change after which a folder of a writer in another place counts as abandoned."""


@cache
def place() -> str:
    """Eight hex digits that identify where process numbers count: this boot of this host, and this container."""
    try:
        parts = [BOOT_ID.read_text(encoding="ascii"), str(PID_NAMESPACE.stat().st_ino)]
    except OSError:  # not Linux
        parts = [str(uuid.getnode()), platform.node(), str(int(psutil.boot_time()))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def temporary_folder(folder: Path) -> Path:
    """A new folder beside `folder`, whose name identifies this process."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.{place()}.{os.getpid()}.", dir=folder.parent))


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders beside `folder` that killed writers of it have left, of any version."""
    pattern = rf"\.{re.escape(folder.name)}\.(?:(?P<place>[0-9a-f]{{8}})\.)?(?P<pid>\d+)\.\w+"
    for path in folder.parent.iterdir():
        name = re.fullmatch(pattern, path.name)
        if name and _abandoned(path, name["place"], int(name["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path, writer_place: str | None, pid: int) -> bool:
    """Whether the writer is known to be dead or, where it cannot be known, nothing was changed for a long time."""
    if writer_place == place() and not psutil.pid_exists(pid):
        return True
    return time.time() - _last_change(path) > ABANDONED_AFTER


def _last_change(path: Path) -> float:
    """The time of the last change of a folder or of a file in it; now, if it disappears meanwhile."""
    try:
        return max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:
        return time.time()
