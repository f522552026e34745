"""The attempts of a trial of a sweep, each of which is a trial of the study, with the same values.

A trial that is interrupted is failed in the study, and another is added in its place, by which the run in its folder
goes on. So a folder has the number of the first attempt, and a sweep has as many trials as there are first ones.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from secateur.system.disk_errors import causes, full_disk, number_of

ATTEMPTS = 4
"""How often a trial is begun before it is failed for good: its run may end its worker each time."""
FIRST, ATTEMPT = "first", "attempt"


def first_of(trial: FrozenTrial) -> int:
    """The number of the first attempt, which is that of the folder."""
    number: int = trial.user_attrs.get(FIRST, trial.number)
    return number


def attempt_of(trial: FrozenTrial) -> int:
    """Which attempt it is, from 1; those that were interrupted from outside do not count."""
    attempt: int = trial.user_attrs.get(ATTEMPT, 1)
    return attempt


def earlier_scores(study: Study, number: int, first: int) -> dict[int, float]:
    """Percentage of the recovery -> score there, as the earlier attempts of a trial have reported them."""
    before = [one for one in study.get_trials(deepcopy=False) if first_of(one) == first and one.number < number]
    return {percent: score for one in before for percent, score in one.intermediate_values.items()}


@dataclass(frozen=True)
class ScoresOnTheWay:
    """The scores of a trial on the way, with those that the interrupted attempts before it have reported.

    Attributes:
        earlier: percentage of the recovery -> score there, of those that this attempt has not reported.
    """

    trial: Trial
    earlier: dict[int, float]

    def report(self, percent: int, score: float) -> bool:
        """Report a score, after those of earlier evaluations; returns whether to stop."""
        self.report_earlier(percent)
        self.earlier.pop(percent, None)
        self.trial.report(score, percent)
        return self.trial.should_prune()

    def report_earlier(self, before: float = math.inf) -> None:
        """Report the scores of an earlier attempt before a percentage, in their order."""
        for percent in sorted(one for one in self.earlier if one < before):
            self.trial.report(self.earlier.pop(percent), percent)


def again(study: Study, trial: FrozenTrial) -> None:
    """Add a trial in the place of one that ended its worker, unless that has happened too often."""
    if attempt_of(trial) < ATTEMPTS:
        _add(study, trial, attempt_of(trial) + 1)


def put_back(study: Study, number: int, error: BaseException) -> None:
    """Add a trial in the place of one that an error ends, unless another worker has taken it over meanwhile."""
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state != TrialState.RUNNING:
        return
    if isinstance(error, KeyboardInterrupt) or is_of_disk(error):
        _add(study, trial, attempt_of(trial))
    else:
        again(study, trial)


def is_of_disk(error: BaseException) -> bool:
    """Whether an error says that the disk is full or read-only, which no value of a trial changes."""
    return full_disk(error) is not None or any(number_of(cause) == errno.EROFS for cause in causes(error))


def _add(study: Study, trial: FrozenTrial, attempt: int) -> None:
    study.enqueue_trial(trial.params, user_attrs={FIRST: first_of(trial), ATTEMPT: attempt})
