"""Free disk, and numbers of bytes in words."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """The free disk where a folder is, or would be created."""
    absolute = folder.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def size(count: float) -> str:
    """A number of bytes, in MB (10^6) or GB (10^9)."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
