"""What a run has used, stage by stage and over all attempts: wall-clock seconds, and peak memory (`records`).

Of pruning and recovery the training is measured, without what comes before and after it: calibration, cut and proofs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.run.records import FORMAT, MEMORY, SECONDS
from secateur.system import process_memory, processes
from secateur.system.errors import UserError

WHOLE_RUN = "run"


@dataclass(frozen=True)
class Accounting:
    """Time and memory of the run in a folder, measured and written by its main process."""

    folder: Path

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Add the time of the body to a stage, and record its peak memory, however the body ends.

        A body that may be killed records what it has used so far by `Stopwatch.record`.
        """
        self.reset_peak()
        stopwatch = Stopwatch(self, name, time.monotonic(), self.seconds().get(name, 0.0))
        try:
            yield stopwatch
        except BaseException:
            with suppress(OSError, UserError):  # the error of the body is the one to report
                stopwatch.record()
            raise
        stopwatch.record()

    def reset_peak(self) -> None:
        """Start a new measurement of the peak; what has been freed before does not count in it."""
        self.record_peak()
        process_memory.release_free_pages()
        process_memory.reset_peak()

    def record_peak(self, *stages: str) -> None:
        """Record the peak since `reset_peak` of stages and of the run, unless an earlier attempt had a higher one."""
        if not processes.is_main():
            return
        peaks, before = process_memory.peaks(), FORMAT.read_if_any(self.folder / MEMORY)
        highest = {
            name: {kind: max(peak, before.get(name, {}).get(kind, 0)) for kind, peak in peaks.items()}
            for name in (*stages, WHOLE_RUN)
        }
        FORMAT.merge(self.folder / MEMORY, {**highest, "counted": process_memory.description_of_peaks()})

    def seconds(self) -> dict[str, Any]:
        """Stage -> seconds."""
        return FORMAT.read_if_any(self.folder / SECONDS)

    def memory(self) -> dict[str, Any]:
        """Stage, or "run" -> kind of memory -> bytes; "counted" -> how they were measured."""
        return FORMAT.read_if_any(self.folder / MEMORY)


@dataclass(frozen=True)
class Stopwatch:
    """The use of a stage by this attempt.

    Attributes:
        began: when this attempt did, by the monotonic clock.
        before: seconds of earlier attempts.
    """

    accounting: Accounting
    stage: str
    began: float
    before: float

    def record(self) -> None:
        """Write the seconds of all attempts until now, and the peak memory."""
        self.accounting.record_peak(self.stage)
        if processes.is_main():
            seconds = round(self.before + time.monotonic() - self.began, 1)
            FORMAT.merge(self.accounting.folder / SECONDS, {self.stage: seconds})
