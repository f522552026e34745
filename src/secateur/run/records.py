"""The small JSON files in which a run records what its later stages and its report need.

RUN/versions.json    libraries and machine
RUN/fingerprint.json what the run began with: fingerprints of its data, its weights and its vocabulary
RUN/seconds.json     stage -> seconds
RUN/memory.json      stage -> peak in bytes, by kind of memory; "run" is the peak over all stages and between them
RUN/length.json      the steps that were decided, if the recipe gives minutes
RUN/outputs.json     whether the teacher's outputs are cached, their size, and why they are not
RUN/teacher.json     how the teacher was trained, if it was trained here, and the trials of its settings
RUN/density.json     trials of densities, and the density that was chosen, if the recipe names a score to keep
RUN/depth.json       trials of numbers of layers, and the number that was chosen, if the recipe leaves it open
RUN/ramp.json        scores of held-out training rows while the density decreases
RUN/baselines.json   scores, sizes and times of the baselines, if the recipe asks for some
RUN/cut_at.json      progress and rows seen at the cut
RUN/verified.json    differences of the outputs before and after the cut, and after saving
"""

from __future__ import annotations

from pathlib import Path

from secateur.report import run_log
from secateur.system.file_format import FileFormat

VERSIONS, FINGERPRINT, SECONDS, MEMORY = "versions.json", "fingerprint.json", "seconds.json", "memory.json"
LENGTH, OUTPUTS, TEACHER = "length.json", "outputs.json", "teacher.json"
DENSITY, DEPTH, RAMP, BASELINES = "density.json", "depth.json", "ramp.json", "baselines.json"
CUT_AT, VERIFIED = "cut_at.json", "verified.json"
FORMAT = FileFormat()
"""Of each of these files."""


def check(folder: Path) -> None:
    """Check the records and the logs of an interrupted run before it continues.

    Raises:
        UserError: one is damaged, or a later version of secateur wrote it.
    """
    stages = (LENGTH, OUTPUTS, TEACHER, DENSITY, DEPTH, RAMP, BASELINES, CUT_AT, VERIFIED)
    for name in (VERSIONS, FINGERPRINT, SECONDS, MEMORY, *stages):
        FORMAT.read_if_any(folder / name)
    run_log.check(folder)
