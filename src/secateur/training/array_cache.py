"""A folder of arrays that can be made again: every entry whole or absent, and all of them within a bound.

    store = Store(folder, limit=8e9, advice="raise the limit")
    arrays = store.get(key, make)        # memory-mapped, as `make` left them, now or in an earlier run

    FOLDER/0123456789abcdef/about.json   shapes, types and checksums       .../states, .../logits   an array each
    FOLDER/partial                       what is being made                FOLDER/lock

One process writes at a time; another one that wants the same waits, and reads. What was used longest ago makes room for
what is new, and what a killed process has left goes first. An entry that goes while another process reads it stays
readable there; the disk has its space back when that process ends.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from secateur.system.errors import UserError

ABOUT, PARTIAL, LOCK = "about.json", "partial", "lock"
KEY = "[0-9a-f]" * 16
"""What the name of an entry looks like; what else is in the folder is not touched."""
BLOCK = 1 << 20
ROOM_FOR_ABOUT = 4096
"""Bytes that are set aside for `about.json`."""


@dataclass(frozen=True)
class Store:
    """Entries by key, at most `limit` bytes of them; `advice` ends the sentence that refuses more."""

    folder: Path
    limit: float
    advice: str

    def get(self, key: str, make: Callable[[Draft], None]) -> dict[str, np.ndarray]:
        """The arrays under a key of 16 hex digits, read-only; made if they are not there or are damaged.

        Raises:
            UserError: they are larger than the limit, or the disk is full or cannot be written.
        """
        found = self._read(key)
        if found is not None:
            return found
        with self._alone():
            found = self._read(key)  # another process may have been faster
            return self._made(key, make) if found is None else found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Held by the one process that writes here; the system lets go of it when that is killed."""
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            lock.acquire()
        try:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)  # of one that was killed
            yield
        finally:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
            lock.release()

    def _made(self, key: str, make: Callable[[Draft], None]) -> dict[str, np.ndarray]:
        draft, place = Draft(self), self.folder / key
        shutil.rmtree(place, ignore_errors=True)  # damaged
        with self._told():
            draft.folder.mkdir()
        make(draft)
        with self._told():
            draft.finish()
            draft.folder.rename(place)
        return _opened(place, json.loads((place / ABOUT).read_text(encoding="utf-8")))

    def _read(self, key: str) -> dict[str, np.ndarray] | None:
        """A whole entry, now the one used last; None where there is none, or where it is not what was written."""
        place = self.folder / key
        try:
            about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
            if any(_checksum(place / name) != kept["crc32"] for name, kept in about.items()):
                return None
            os.utime(place)
            return _opened(place, about)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def make_room(self, size: float) -> None:
        """Remove what was used longest ago until `size` bytes more are within the limit.

        Raises:
            UserError: they never would be.
        """
        if size > self.limit:
            raise UserError(
                f"caching the teacher's outputs takes {size / 1e9:.2g} GB, the limit is {self.limit / 1e9:g} GB: "
                f"{self.advice}"
            )
        entries = sorted(self.folder.glob(KEY), key=lambda place: place.stat().st_mtime)
        sizes = [sum(file.stat().st_size for file in place.iterdir()) for place in entries]
        for number, place in enumerate(entries):
            if sum(sizes[number:]) + size <= self.limit:
                return
            with self._told():
                shutil.rmtree(place)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the disk refuses, as one sentence."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the teacher's outputs cannot be written to {self.folder} ({error.strerror or error}): free space "
                "there, or turn the cache off"
            ) from error


class Draft:
    """An entry while it is being made: its arrays, on disk from the start."""

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, store.folder / PARTIAL
        self.about: dict[str, dict[str, Any]] = {}
        self.size = ROOM_FOR_ABOUT

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A new array of the entry to be filled in, of zeros; all of its space is taken on the disk now.

        Raises:
            UserError: the entry would be larger than the limit, or the disk is full.
        """
        self.size += (size := prod(shape) * np.dtype(dtype).itemsize)
        self.store.make_room(self.size)
        with self.store._told():
            _take(self.folder / name, size)
        self.about[name] = {"shape": list(shape), "dtype": dtype}
        return _mapped(self.folder / name, self.about[name], "r+")

    def finish(self) -> None:
        """Write what tells a whole entry from a damaged one."""
        for name, kept in self.about.items():
            kept["crc32"] = _checksum(self.folder / name)
        (self.folder / ABOUT).write_text(json.dumps(self.about), encoding="utf-8")


def _opened(place: Path, about: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: _mapped(place / name, kept, "r") for name, kept in about.items()}


def _mapped(path: Path, kept: Mapping[str, Any], mode: Any) -> np.ndarray:
    """An array that lies in a file; nothing can be mapped of an empty one."""
    shape = tuple(kept["shape"])
    return np.memmap(path, kept["dtype"], mode, shape=shape) if prod(shape) else np.zeros(shape, kept["dtype"])


def _take(path: Path, size: int) -> None:
    """A file of zeros with all its blocks: a full disk is an error now, and not a crash at a page that has no block."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for first in range(0, size, BLOCK):
            file.write(bytes(min(BLOCK, size - first)))


def _checksum(path: Path) -> int:
    """CRC-32 of a file, read in blocks: no page of it stays in this process."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found
