"""The time that is left of a run: what was expected of its stages, corrected by what they have taken so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.run.expected_stage import ExpectedStage

WEIGHT = 0.1
"""The weight of the expectation against the time that has been used: as if this part of the run had gone as expected.

Without it a short stage at the start would decide on the estimate of the whole run.
"""


@dataclass(frozen=True)
class TimeLeft:
    """The time that is left of a run.

    Attributes:
        stages: in their order; those whose seconds are not known count nothing.
        began: when the first of them did, in seconds of any clock.
    """

    stages: Sequence[ExpectedStage]
    began: float

    def seconds(self, place: int, fraction: float, now: float) -> float | None:
        """The seconds left when a fraction of the stage at `place` is done; None if nothing is expected."""
        expected = [stage.seconds or 0.0 for stage in self.stages]
        if not (total := sum(expected)):
            return None
        done = sum(expected[:place]) + fraction * expected[place]
        trusted = WEIGHT * total
        return (total - done) * (now - self.began + trusted) / (done + trusted)
