"""What a run has spent, stage by stage and over all attempts: seconds, and the peak of memory.

RUN/seconds.json    stage -> seconds
RUN/memory.json     stage, and "run" for all of them and what is between -> bytes at the highest
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.run.run_folder import note, read_json
from secateur.system import process_memory, processes

SECONDS, MEMORY, WHOLE = "seconds.json", "memory.json", "run"


@dataclass(frozen=True)
class Spent:
    """The account of the run in a folder, kept by its main process."""

    folder: Path

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count what is done within to a stage, once it is done; the time by a steady clock."""
        self.begin()
        started = time.monotonic()
        yield
        self.held(stage)
        if processes.is_main():
            before = self._read(SECONDS).get(stage, 0.0)
            note(self.folder / SECONDS, {stage: round(before + time.monotonic() - started, 1)})

    def begin(self) -> None:
        """Begin to watch memory, without what was freed before."""
        self.held()
        process_memory.give_back()
        process_memory.forget_peak()

    def held(self, *stages: str) -> None:
        """Keep how much memory was held at the most since `begin`, of stages and of the run."""
        if not processes.is_main():
            return
        peaks, before = process_memory.peaks(), self._read(MEMORY)
        highest = {
            name: {kind: max(peak, before.get(name, {}).get(kind, 0)) for kind, peak in peaks.items()}
            for name in (*stages, WHOLE)
        }
        note(self.folder / MEMORY, {**highest, "counted": process_memory.counted()})

    def seconds(self) -> dict[str, Any]:
        return self._read(SECONDS)

    def memory(self) -> dict[str, Any]:
        return self._read(MEMORY)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_json(path) if path.is_file() else {}
