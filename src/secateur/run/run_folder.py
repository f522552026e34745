"""The folder of a run belongs to one recipe, with which an interrupted run is continued, and to one run at a time."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from secateur.report.recipe_keys import dotted, upgrade
from secateur.run.context import UNCHECKED_TEACHER
from secateur.run.recipe import Recipe, keys_of, make
from secateur.run.records import FORMAT, VERSIONS
from secateur.system import processes
from secateur.system.errors import FolderInUse, UserError
from secateur.system.files import atomic_write
from secateur.system.version import VERSION

LOCK = "lock"
TEACHER_KEYS = {
    "training.teacher_epochs",
    "training.teacher_learning_rate",
    "training.teacher_steps",
    "distillation.check_teacher",
}
"""What may be changed in the recipe of a run that has ended with a teacher which is no better than a constant."""
EARLIER = "earlier"
"""The key of the versions of earlier attempts, the first one first, where an attempt had others than the one before."""
UNCLAIMED = {LOCK, VERSIONS, f"{VERSIONS}.partial", "recipe.yaml.partial", "recipe.partial"}
"""Files that a run of this version or of 0.1.0 may leave if it is killed before it has claimed its folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder of a run, for this run alone: of several processes of it, the main one holds the lock.

    The operating system releases the lock of a process that dies. A folder that is created for the lock is removed
    again if nothing else is written to it.

    Raises:
        FolderInUse: another run is using the folder.
        UserError: it is no run's, or it cannot be written.
    """
    with ExitStack() as held:
        processes.on_main(lambda: held.enter_context(_lock(folder)))
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    refuse_foreign(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FolderInUse(
            f"another process is running in {folder}: wait until it ends, or choose another folder"
        ) from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for path in created:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder, or a file, that is not a run's and not empty."""
    if (folder / "recipe.yaml").is_file() or not folder.exists():
        return
    if not folder.is_dir() or {entry.name for entry in folder.iterdir()} - UNCLAIMED:
        raise UserError(f"{folder} exists and is no run of secateur: choose an empty or new folder")


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written")


def check_writable(folder: Path) -> None:
    """Refuse a folder that a run could not create, or write to; nothing is written.

    Raises:
        UserError: it could not.
    """
    absolute = folder.absolute()
    existing = next(place for place in (absolute, *absolute.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        number = errno.EACCES if existing.is_dir() else errno.ENOTDIR
        raise _not_writable(folder, OSError(number, os.strerror(number)))


def claim(folder: Path, recipe: Recipe) -> None:
    """Claim a folder for the run of a recipe; if it holds that run already, the run can be resumed.

    One that has ended with its teacher is resumed with another training of that too.

    Raises:
        UserError: it holds a run of another recipe, or something else, and is unchanged; or it cannot be written.
    """
    check_claim(folder, recipe)
    path = folder / "recipe.yaml"
    if path.is_file() and not _differences(path, recipe):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        FORMAT.write(folder / VERSIONS, versions())  # in place of what a kill may have left of them
        atomic_write(path, recipe.to_yaml())
    except OSError as error:
        raise _not_writable(folder, error) from error


def check_claim(folder: Path, recipe: Recipe) -> None:
    """Check that a folder is free for the run of a recipe, or holds it.

    Raises:
        UserError: it holds a run of another recipe, or something else.
    """
    path = folder / "recipe.yaml"
    changed = _differences(path, recipe) if path.is_file() else []
    open_keys = TEACHER_KEYS if _is_open_to_teachers(folder) else set()
    if changed := [key for key in changed if key not in open_keys]:
        raise UserError(
            f"{folder} holds a run of another recipe (it differs in {', '.join(changed)}): "
            "choose another output folder, repeat its command to go on, or replace it by --overwrite"
        )
    refuse_foreign(folder)


def _is_open_to_teachers(folder: Path) -> bool:
    """Whether the teacher of a run, or of the several that it is one of, has not been found worth keeping."""
    return any((place / UNCHECKED_TEACHER).is_dir() for place in (folder, folder.parent))


def holds_unfinished(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds the run of this recipe, which is not finished. One that cannot be read is another's."""
    try:
        check_claim(folder, recipe)
    except UserError:
        return False
    reports = [place / "report.json" for place in folders_of(recipe, folder)]
    return (folder / "recipe.yaml").is_file() and not all(map(Path.is_file, reports))


def folders_of(recipe: Recipe, folder: Path) -> list[Path]:
    """The folder of a run, or those of each density in it, the largest first."""
    several = [folder / str(density) for density in recipe.target.densities]
    return several if len(several) > 1 else [folder]


def _differences(path: Path, recipe: Recipe) -> list[str]:
    """Dotted keys in which the recipe of a run's folder, of this version or an older one, differs from `recipe`.

    A key that the older version did not have has its default.
    """
    values = keys_of(path.read_text(encoding="utf-8"), str(path))
    try:
        old = dotted(make(upgrade(dict(values)), str(path)).to_dict())
    except (TypeError, ValueError):  # it holds no keys and values, or they are not a recipe
        return ["its keys"]
    return [key for key, value in dotted(recipe.to_dict()).items() if old[key] != value]


def record_versions(folder: Path) -> None:
    """Write the versions of an attempt that begins, and keep those of earlier attempts under `EARLIER`."""
    path, now = folder / VERSIONS, versions()
    before = FORMAT.read_if_any(path)
    earlier = before.pop(EARLIER, [])
    if before == now:
        return
    earlier = [*earlier, before] if before else []
    FORMAT.write(path, now | ({EARLIER: earlier} if earlier else {}))


def versions() -> dict[str, str]:
    """The libraries and the machine, on which the numbers of a run depend besides the recipe."""
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}
    machine = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": str(os.cpu_count()),
    }
    return {"secateur": VERSION, **libraries, **machine, "threads": str(torch.get_num_threads())}
