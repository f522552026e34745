"""A cache of arrays in a folder: entries are written atomically, and all of them together stay within a size limit.

    cache = ArrayCache(folder, limit=8e9, advice="raise the limit")
    arrays = cache.get(key, compute)     # memory-mapped, as `compute` filled them now or in an earlier run

    FOLDER/0123456789abcdef/about.json   shapes, types and checksums       .../states, .../logits   an array each
    FOLDER/partial                       the entry that is being written   FOLDER/lock

One process writes at a time; another one that needs the same entry waits, then reads it. Least recently used entries
are removed to make room, after what a killed process has left. An entry that is removed while another process reads it
stays readable there; its disk space is free when that process ends.
"""

from __future__ import annotations

import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion
from secateur.system.quantities import at_least

ABOUT, PARTIAL, LOCK = "about.json", "partial", "lock"
KEY = "[0-9a-f]" * 16
"""The pattern of an entry's name; everything else in the folder is left alone."""
BLOCK = 1 << 20
ROOM_FOR_ABOUT = 4096
"""Bytes that are reserved for `about.json`."""
FORMAT = FileFormat()
"""Of `about.json`."""


class ArrayType(NamedTuple):
    """What is known of an array before it is computed."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def entry_bytes(arrays: Iterable[ArrayType]) -> int:
    """The size of an entry with these arrays."""
    return ROOM_FOR_ABOUT + sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class ArrayCache:
    """Entries by key.

    Attributes:
        limit: bytes that all entries may take together.
        advice: what a user can do when an entry is larger than that; the end of the error message.
    """

    folder: Path
    limit: float
    advice: str

    def get(self, key: str, compute: Callable[[Draft], None]) -> dict[str, np.ndarray]:
        """The arrays under a key of 16 hex digits, read-only; computed if they are missing or damaged.

        Raises:
            UserError: they are larger than the limit, or the disk is full or cannot be written.
        """
        arrays = self._read(key)
        if arrays is not None:
            return arrays
        with self._locked():
            arrays = self._read(key)  # another process may have been faster
            return self._written(key, compute) if arrays is None else arrays

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock of the one process that writes; the operating system releases it if that process is killed."""
        with self.user_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            lock.acquire()
        try:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)  # of a process that was killed
            yield
        finally:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
            lock.release()

    def _written(self, key: str, compute: Callable[[Draft], None]) -> dict[str, np.ndarray]:
        draft, entry = Draft(self), self.folder / key
        shutil.rmtree(entry, ignore_errors=True)  # it is damaged
        with self.user_errors():
            draft.folder.mkdir()
        compute(draft)
        with self.user_errors():
            draft.finish()
            draft.folder.rename(entry)
        return _opened(entry, FORMAT.read(entry / ABOUT))

    def _read(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of an entry, which becomes the most recently used; None if it is missing or damaged."""
        entry = self.folder / key
        try:
            about = FORMAT.read(entry / ABOUT)
            if any(_checksum(entry / name) != array["crc32"] for name, array in about.items()):
                return None
            os.utime(entry)
            return _opened(entry, about)
        except NewerVersion:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def make_room(self, size: float) -> None:
        """Remove the least recently used entries until `size` bytes more are within the limit.

        Raises:
            UserError: `size` alone is above the limit.
        """
        if size > self.limit:
            needed = at_least(size / 1e9, ".2g")
            raise UserError(
                f"caching the teacher's outputs takes {needed} GB, the limit is {self.limit / 1e9:g} GB: {self.advice}"
            )
        entries = sorted(self.folder.glob(KEY), key=lambda entry: entry.stat().st_mtime)
        sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
        for number, entry in enumerate(entries):
            if sum(sizes[number:]) + size <= self.limit:
                return
            with self.user_errors():
                shutil.rmtree(entry)

    @contextmanager
    def user_errors(self) -> Iterator[None]:
        """Within the block, an error of the disk becomes a `UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the teacher's outputs cannot be written to {self.folder} ({error.strerror or error}): free space "
                "there, or turn the cache off"
            ) from error


class Draft:
    """An entry while it is written: its arrays are files from the start."""

    def __init__(self, cache: ArrayCache) -> None:
        self.cache, self.folder = cache, cache.folder / PARTIAL
        self.about: dict[str, dict[str, Any]] = {}

    def arrays(self, types: Mapping[str, ArrayType]) -> dict[str, np.ndarray]:
        """The arrays of the entry by name, of zeros, to be filled in; their disk space is allocated now.

        Raises:
            UserError: the entry would be larger than the limit, or the disk is full.
        """
        self.cache.make_room(entry_bytes(types.values()))
        with self.cache.user_errors():
            for name, array in types.items():
                _allocate(self.folder / name, array.nbytes)
        self.about = {name: {"shape": list(array.shape), "dtype": array.dtype} for name, array in types.items()}
        return {name: _mapped(self.folder / name, array, "r+") for name, array in self.about.items()}

    def finish(self) -> None:
        """Write `about.json`, by which a complete entry is told from a damaged one."""
        for name, array in self.about.items():
            array["crc32"] = _checksum(self.folder / name)
        FORMAT.write(self.folder / ABOUT, self.about)


def _opened(entry: Path, about: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: _mapped(entry / name, array, "r") for name, array in about.items()}


def _mapped(path: Path, array: Mapping[str, Any], mode: Any) -> np.ndarray:
    """A file as a memory-mapped array; an empty file cannot be mapped."""
    shape = tuple(array["shape"])
    return np.memmap(path, array["dtype"], mode, shape=shape) if prod(shape) else np.zeros(shape, array["dtype"])


def release_pages(array: np.ndarray) -> None:
    """Take the pages of a mapped array out of the memory of this process; nothing is lost, and they can be read again.

    Otherwise the process holds in the end all that it has ever read of the file, which counts as its memory.
    """
    mapped: Any = array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # which Windows does not have
        mapped.madvise(mmap.MADV_DONTNEED)


def _allocate(path: Path, size: int) -> None:
    """Write a file of zeros with all its blocks: a full disk is an error now, not a crash when a page is written."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for first in range(0, size, BLOCK):
            file.write(bytes(min(BLOCK, size - first)))


def _checksum(path: Path) -> int:
    """CRC-32 of a file, read in blocks so that no page of it stays in this process."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
