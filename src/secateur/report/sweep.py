"""The results of a sweep: its trials, with what they had, what came out, and which of them are the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FINISHED, STOPPED, FAILED, RUNNING, WAITING = "finished", "stopped", "failed", "running", "waiting"
"""States of a trial: its run is finished; was stopped early; has failed; is running; or will be run again, having been
interrupted."""


@dataclass(frozen=True)
class SweepTrial:
    """A trial.

    Attributes:
        number: also the name of its folder, with four digits.
        point: key of the recipe -> its value.
        values: of the objectives, in their order; None unless it is finished.
        result: what its run was measured to be: `score` and `standard_error` on the validation rows, `tuning` on the
            rows by which trials are judged, `speedup`, `ms`, `mb`, `parameters`, `density`, `seconds`.
        why: the reason of one that has failed; the last score of one that was stopped.
        same_as: the number of an earlier trial with the same point, whose values it has; None if it ran itself.
    """

    number: int
    state: str
    point: Mapping[str, Any]
    values: tuple[float, ...] | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    same_as: int | None = None

    @property
    def name(self) -> str:
        """The name of the folder of its run."""
        return f"{self.number if self.same_as is None else self.same_as:04d}"


@dataclass(frozen=True)
class SweepResult:
    """The trials of a sweep so far.

    Attributes:
        objectives: name -> whether less is better.
        metric: what the score is.
        subject: the model and the data.
        judged: the rows by which trials are judged, such as "400 training rows held out".
        scored: the rows on which the models are scored after that, such as "421 validation rows".
        asked: number of trials that were asked for.
        sampler: how they were chosen.
        shape: of the times, such as "8 x 128"; empty if none were measured.
        teacher: the teacher's score on the validation rows; None if no trial is finished.
        importance: objective -> key -> the share of the variance that it explains; empty where there are too few
            trials.
        combinations: number of all combinations of a grid; None for another sampler.
    """

    name: str
    objectives: Mapping[str, bool]
    metric: str
    subject: str
    judged: str
    scored: str
    asked: int
    sampler: str
    trials: tuple[SweepTrial, ...]
    shape: str = ""
    teacher: float | None = None
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    combinations: int | None = None

    @property
    def finished(self) -> list[SweepTrial]:
        """The trials with values."""
        return [trial for trial in self.trials if trial.values is not None]

    @property
    def best(self) -> list[SweepTrial]:
        """The trials that no other is at least as good as in all objectives and better in one; the best score first.

        Of trials with the same values only the first is among them. Of one objective, these are one trial.
        """
        losses = {trial.number: self._losses(trial) for trial in self.finished}
        front = [
            trial
            for trial in self.finished
            if not any(_dominates(other, losses[trial.number]) for other in losses.values())
            and not any(n < trial.number and other == losses[trial.number] for n, other in losses.items())
        ]
        return sorted(front, key=lambda trial: losses[trial.number])

    def _losses(self, trial: SweepTrial) -> tuple[float, ...]:
        """The values with their signs, so that less is better."""
        signs = (1.0 if less else -1.0 for less in self.objectives.values())
        return tuple(sign * value for sign, value in zip(signs, trial.values or (), strict=True))

    def count(self, state: str) -> int:
        """The number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def unfinished(self) -> int:
        """The number of trials that run, or wait to be run again."""
        return self.count(RUNNING) + self.count(WAITING)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"best": [trial.number for trial in self.best]}


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other
