"""The folder of a sweep, which workers on one machine, or on a disk that machines share, have in common.

SWEEP/sweep.yaml    the recipe with its block: it marks the folder      SWEEP/trials/0007    the run of a trial
SWEEP/study.db      the study, unless another storage is given          SWEEP/trials/cache   the teacher's outputs
SWEEP/sweep.html    the page, and beside it sweep.json                  SWEEP/trials/teacher a teacher trained here
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from secateur.report import sweep_page
from secateur.report.sweep import SweepResult
from secateur.run.sweep.block import Sweep, read_sweep
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.files import atomic_write

FILE, STUDY, TRIALS, LOCK, PAGE, JSON = "sweep.yaml", "study.db", "trials", "lock", "sweep.html", "sweep.json"
FORMAT = FileFormat()
"""Of `sweep.json`."""


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """The folder for this worker alone; whether it has it, which is certain where it waits.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written") from error
    try:
        yield True
    finally:
        lock.release()


def check_claim(folder: Path, sweep: Sweep) -> None:
    """Check that a folder is free for a sweep, or holds it.

    Raises:
        UserError: it holds another sweep, or something else.
    """
    path = folder / FILE
    if path.is_file():
        changed = sweep.differences(read_sweep(path, {}).resolved)
        if changed:
            raise UserError(
                f"{folder} holds another sweep (it differs in {', '.join(changed)}): choose another folder, or repeat "
                "its command to go on"
            )
    elif folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - {LOCK}):
        raise UserError(f"{folder} exists and is no sweep of secateur: choose an empty or new folder")


def claim(folder: Path, sweep: Sweep) -> None:
    """Claim a folder for a sweep; if it holds that sweep already, this worker joins it.

    Raises:
        UserError: as `check_claim`.
    """
    check_claim(folder, sweep)
    if not (folder / FILE).is_file():
        atomic_write(folder / FILE, sweep.to_yaml())


def trial_folder(folder: Path, number: int) -> Path:
    """The folder of the run of a trial."""
    return folder / TRIALS / f"{number:04d}"


def write_page(folder: Path, result: SweepResult) -> None:
    """Write the page and its numbers. One worker at a time may."""
    atomic_write(folder / PAGE, sweep_page.to_html(result))
    FORMAT.write(folder / JSON, result.to_dict())
