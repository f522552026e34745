"""Files and folders that are written atomically, reading JSON, and fingerprints.

Everything is written under a temporary name in the same folder first and renamed at the end: a reader, or a run that is
resumed after a crash, sees the old content or the new content, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from secateur.system.errors import UserError
from secateur.system.permissions import open_file, open_folder
from secateur.system.writers import remove_abandoned, temporary_folder

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds after which a folder that was renamed has lost its writer: the second name follows at once."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, whose file replaces `path` when the block ends without an exception.

    One process at a time may write a path: the temporary name is fixed, so that a file left by a killed process is
    overwritten by the next one. The folder of `path` is made if it is missing.

    Raises:
        UserError: it cannot be written (disk full, read-only, a folder has its name); nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        open_file(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"writing {path} failed ({error.strerror or error}): nothing was written; free space or choose another file"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def atomic_write(path: Path | str, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(
    folder: Path | str, *failures: type[Exception], keep: Callable[[PurePath], bool] | None = None
) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an exception, and is removed otherwise.

    A folder that exists is replaced at the end only, so nothing is lost when writing fails.

    Args:
        failures: exceptions with which a library reports, besides `OSError`, that it cannot write.
        keep: whether a file or folder in the old folder, by its path in it, stays where none of that name was written;
            None keeps nothing.

    Raises:
        UserError: it is the current folder or where a disk is mounted, or cannot be written (disk full, read-only);
            nothing is left behind.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file: choose a folder that is new, or one to replace")
    folder = folder.resolve() if folder.is_symlink() else folder
    refuse_fixed(folder)
    caught: tuple[type[Exception], ...] = (OSError, *failures)
    temporary = _temporary_folder(folder)
    try:
        yield temporary
        open_folder(temporary)
        if keep is not None and folder.exists():
            _keep(folder, temporary, keep)
        replace_folder(temporary, folder)
    except caught as error:
        raise UserError(
            f"writing {folder} failed ({error}): nothing was written; free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _keep(old: Path, new: Path, keep: Callable[[PurePath], bool]) -> None:
    """Give a folder what is kept of another one: the same files by a second name, or copies where a disk has none."""

    def left_out(place: str, names: list[str]) -> list[str]:
        paths = (Path(place, name) for name in names)
        return [path.name for path in paths if _is_replaced(path, new / path.relative_to(old)) or not kept(path)]

    def kept(path: Path) -> bool:
        return keep(path.relative_to(old))

    shutil.copytree(old, new, symlinks=True, ignore=left_out, copy_function=_link, dirs_exist_ok=True)


def _is_replaced(old: Path, new: Path) -> bool:
    """Whether a file has the place of another; a folder and a file of one name are an error, which linking them is."""
    return new.is_file() and not old.is_dir()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(source, target)


def refuse_fixed(folder: Path) -> None:
    """Refuse a folder in whose place another one cannot be put.

    Raises:
        UserError: it is or holds the current folder, or a disk is mounted there, as the volume of a container is.
    """
    refuse_current(folder)
    if os.path.ismount(folder.resolve()):
        raise UserError(f"{folder} is where a disk is mounted, which cannot be replaced: name a folder inside it")


def refuse_current(folder: Path) -> None:
    """Refuse to replace the folder in which this process is, or one that holds it.

    Raises:
        UserError: it is such a folder.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{folder} is or holds the current folder, which is not replaced: choose another folder")


def refuse_unwritable(path: Path) -> None:
    """Refuse a file or a folder that cannot be written in its place, before what it is to hold is made.

    Raises:
        UserError: the folder that holds it, or in which that will be made, is a file or cannot be written.
    """
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise UserError(f"{path} cannot be written, because {place} is a file: choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written in {place}: allow it, or choose another place")


def refuse_unwritable_file(file: Path) -> None:
    """Refuse a file that cannot be written, or in whose place a folder is.

    Raises:
        UserError: it is such a file.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: give the name of a file to write")
    refuse_unwritable(file)


def refuse_lost(folder: Path, places: Iterable[str | Path | None]) -> None:
    """Refuse to replace a folder, or a file, by something that is made from what it holds.

    Args:
        places: files and folders that are read; None, and a name that is not on this disk, are passed over.

    Raises:
        UserError: one of them would be deleted.
    """
    whole = folder.resolve()
    for place in (Path(place) for place in places if place is not None):
        if place.resolve().is_relative_to(whole) and place.exists():
            raise UserError(f"{place} is read, and replacing {folder} would delete it: choose another output")


def refuse_occupied(folder: Path) -> None:
    """Refuse a folder that is not empty, which would be replaced.

    Raises:
        UserError: it is not empty, or is a file, or the current folder, or a disk is mounted there, or it cannot be
            written.
    """
    refuse_fixed(folder)
    refuse_unwritable(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: choose a new folder, or replace it by --overwrite")


def refuse_other_than_model(folder: Path) -> None:
    """Refuse to replace anything but a folder with a model, or with nothing.

    Raises:
        UserError: it holds something else, or is the current folder, or a disk is mounted there, or it cannot be
            written.
    """
    refuse_fixed(folder)
    refuse_unwritable(folder)
    if folder.exists() and not (folder / "config.json").is_file():
        refuse_occupied_by_others(folder)


def refuse_occupied_by_others(folder: Path) -> None:
    """Refuse a folder that is not empty, which is no model's.

    Raises:
        UserError: it is not empty, or is a file.
    """
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder} holds no model, so it is not replaced: choose a new folder")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is damaged.
        OSError: it is missing or cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): expected JSON") from error


def fingerprint(chunks: Iterable[Any], digits: int = 16) -> str:
    """The first hex digits of the SHA-256 of texts, bytes and contiguous arrays, one after the other."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk.encode() if isinstance(chunk, str) else chunk)
    return digest.hexdigest()[:digits]


def _temporary_folder(folder: Path) -> Path:
    """A new folder beside `folder`, after those of killed writers are removed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        restore_replaced(folder)
        remove_abandoned(folder)
        return temporary_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.parent} ({error.strerror}): choose a folder that can be written"
        ) from error


def replace_folder(temporary: Path, folder: Path) -> None:
    """Rename over an existing folder; the old one is removed only once the new one is in its place."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = _replaced(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore_replaced(folder: Path) -> None:
    """Put back a folder that a writer had renamed, and was killed before the new one was in its place."""
    if folder.exists():
        return
    old = _replaced(folder)
    if not old.is_dir() or time.time() - old.stat().st_ctime < GRACE:
        return
    log.warning("%s was being replaced when its writer was killed: the old one is put back", folder)
    old.rename(folder)


def _replaced(folder: Path) -> Path:
    """The name of a folder while another takes its place."""
    return folder.with_name(f".{folder.name}.old")
