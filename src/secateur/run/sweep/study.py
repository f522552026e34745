"""The study of a sweep, which its workers share: trials in a database, by Optuna.

A trial that is interrupted, or whose worker ends by an error or has not been heard of for `GRACE` seconds, has another
attempt (`attempts`).
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from secateur.report.sweep import FAILED, FINISHED, RUNNING, STOPPED, WAITING, SweepTrial
from secateur.run.begun_with import differing
from secateur.run.sweep.attempts import (
    ATTEMPTS,
    FIRST,
    ScoresOnTheWay,
    again,
    attempt_of,
    earlier_scores,
    first_of,
    is_of_disk,
    put_back,
)
from secateur.run.sweep.block import Point, Sweep
from secateur.run.sweep.dimension import Choices, Dimension
from secateur.run.sweep.samplers import sampler_of
from secateur.system.errors import FolderInUse, UserError, as_user_error

HEARTBEAT, GRACE = 20, 90
"""Seconds between two signs of life of a worker, and after the last of which its trial is failed."""
TIMEOUT = 120.0
"""Seconds for which a process waits for another that writes to an SQLite file."""
POLL = 5.0
"""Seconds after which a worker that has nothing to do, or waits for a folder, looks again."""
SURPLUS, SAME, RESULT, WHY = "surplus", "same_as", "result", "why"
SWEEP, BEGUN = "sweep", "begun_with"
FEWEST = 8
"""Trials below which importance says nothing."""
STATES = {
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: STOPPED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
}

log = logging.getLogger(__name__)


class _Failed(Exception):
    """A trial has failed, by what its values ask for."""


class _Surplus(Exception):
    """Another worker was faster to begin the last trial."""


class Stopped(Exception):
    """A trial scores too little on the way, and is stopped."""


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run.

    Attributes:
        number: of the trial, which is that of its folder.
        report: takes a percentage of the recovery and the score there, and says whether to stop.
    """

    number: int
    point: Point
    report: Callable[[int, float], bool]


Work = Callable[[Asked], tuple[Sequence[float], Mapping[str, Any]]]
"""Runs a trial; returns the values of the objectives, and the numbers to keep of its run."""


class SweepStudy:
    """The study of a sweep.

    Args:
        url: of the database.
        name: of the study in it.
        less: for each objective, whether less is better.
        begun: the fingerprints of the data and the weights (`begun_with`), which all workers share.

    Raises:
        UserError: the database cannot be opened, or has a study of that name of another sweep, or of other data or
            weights.
    """

    def __init__(
        self, url: str, name: str, sweep: Sweep, less: Sequence[bool], begun: Mapping[str, str | None]
    ) -> None:
        self.sweep = sweep
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = optuna.pruners.MedianPruner() if sweep.stops_early else optuna.pruners.NopPruner()
        with as_user_error("the database of the sweep cannot be opened", "give another --storage"), _quiet():
            self.study = optuna.create_study(
                storage=_storage(url, again),
                study_name=name,
                sampler=sampler_of(sweep, _place),
                pruner=pruner,
                directions=["minimize" if one else "maximize" for one in less],
                load_if_exists=True,
            )
        self._claim(name, begun)

    def _claim(self, name: str, begun: Mapping[str, str | None]) -> None:
        """Write the sweep to a new study, or compare it with that of one that exists."""
        theirs = self.study.user_attrs.get(SWEEP)
        if theirs is None:
            places = ("model", "teacher", "data.source")  # which differ between machines
            ours = {key: value for key, value in self.sweep.resolved.items() if key not in places}
            self.study.set_user_attr(BEGUN, dict(begun))
            self.study.set_user_attr(SWEEP, ours)
            return
        known = self.study.user_attrs.get(BEGUN)  # which a study of an older version has not
        changed = self.sweep.differences(theirs) or ([] if known is None else differing(known, begun))
        if changed:
            raise UserError(
                f"the study {name!r} is of another sweep (it differs in {', '.join(changed)}): choose another folder "
                "or --study"
            )

    # Work

    def work(self, run: Work, total: int, after: Callable[[int], None], idle: Callable[[int], None]) -> None:
        """Run trials until the study has as many as asked for, and none of them runs elsewhere.

        Args:
            run: does one.
            total: the number of trials of the study, of all workers.
            after: is told the number of each trial that has ended here.
            idle: is told, when it begins to wait, how many run elsewhere while there is nothing left to begin.

        Raises:
            UserError: three trials in a row have failed here, or the disk is full.
        """
        failures: list[UserError] = []
        ended = [lambda study, trial: after(first_of(trial))]
        waits = False
        while True:
            self._fail_stale()
            trials = self.trials()
            if len(trials) < total or any(trial.state == WAITING for trial in trials):
                work, waits = self._objective(run, total, failures), False
                try:
                    self.study.optimize(work, n_trials=1, catch=(_Failed, _Surplus), callbacks=ended)
                except UpdateFinishedTrialError:  # this process was suspended, and is here again
                    log.warning("a trial was given to another worker, because this one was not heard of for a while")
                if len(failures) >= 3:
                    raise failures[-1]
            elif running := sum(trial.state == RUNNING for trial in trials):
                if not waits:
                    idle(running)
                waits = True
                time.sleep(POLL)
            else:
                return

    def _objective(self, run: Work, total: int, failures: list[UserError]) -> Callable[[optuna.Trial], Sequence[float]]:
        def objective(trial: optuna.Trial) -> Sequence[float]:
            if FIRST not in trial.user_attrs and _place(self.study, trial.number) >= total:
                trial.set_user_attr(SURPLUS, True)
                raise _Surplus
            point = {one.key: _suggested(trial, one) for one in self.sweep.dimensions}
            if (same := self._finished(trial)) is not None:
                failures.clear()
                trial.set_user_attr(SAME, first_of(same))
                trial.set_user_attr(RESULT, same.user_attrs.get(RESULT, {}))
                return list(same.values)
            first = trial.user_attrs.get(FIRST, trial.number)
            scores = ScoresOnTheWay(trial, earlier_scores(self.study, trial.number, first))
            report = scores.report if self.sweep.stops_early else _unreported
            with self._endings(trial, failures):
                values, result = _when_free(run, Asked(first, point, report))
            scores.report_earlier()
            trial.set_user_attr(RESULT, dict(result))
            return values

        return objective

    @contextmanager
    def _endings(self, trial: optuna.Trial, failures: list[UserError]) -> Iterator[None]:
        """What becomes of a trial by the way in which its run, in the block, ends.

        It fails only by a mistake in what its values ask for; by any other error it is put back.
        """
        try:
            yield
        except Stopped as stopped:
            failures.clear()
            raise optuna.TrialPruned from stopped
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, UserError) or is_of_disk(error):
                put_back(self.study, trial.number, error)
                raise
            trial.set_user_attr(WHY, str(error))
            failures.append(error)
            raise _Failed from error
        failures.clear()

    def _finished(self, trial: optuna.Trial) -> FrozenTrial | None:
        """A finished trial with the same values."""
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((one for one in finished if one.params == trial.params), None)

    # Interrupted trials

    def _fail_stale(self) -> None:
        with _quiet():
            optuna.storages.fail_stale_trials(self.study)

    # Results

    def trials(self) -> list[SweepTrial]:
        """The trials that count, in their order; one that was interrupted is in the state of that in its place."""
        last: dict[int, FrozenTrial] = {}
        for trial in _counted(self.study):
            last[first_of(trial)] = trial
        return [self._read(number, trial) for number, trial in sorted(last.items())]

    def _read(self, number: int, trial: FrozenTrial) -> SweepTrial:
        point = trial.params or trial.system_attrs.get("fixed_params", {})
        return SweepTrial(
            number=number,
            state=STATES[trial.state],
            point=point,
            values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
            result=trial.user_attrs.get(RESULT, {}),
            why=_reason(trial),
            same_as=trial.user_attrs.get(SAME),
        )

    def importance(self) -> dict[str, dict[str, float]]:
        """Objective -> key -> the part of the variance of finished trials that it explains, by fANOVA.

        Empty where it cannot be known: of less than `FEWEST` different trials, or of values that are all the same.
        """
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len({json.dumps(trial.params, sort_keys=True) for trial in finished}) < FEWEST:
            return {}
        found = {}
        for place, name in enumerate(self.sweep.block.objectives):
            if len({trial.values[place] for trial in finished}) > 1:
                found[name] = _importance(self.study, place)
        return found


def _reason(trial: FrozenTrial) -> str:
    """Why a trial was stopped or has failed."""
    scores, attempt = trial.intermediate_values, attempt_of(trial)
    if trial.state == TrialState.PRUNED and scores:
        return f"score {scores[max(scores)]:.4f} after {max(scores)}% of the recovery"
    if trial.state == TrialState.FAIL and WHY not in trial.user_attrs:
        return f"its worker ended {attempt} times" if attempt == ATTEMPTS else "its worker ended by an error"
    return str(trial.user_attrs.get(WHY, ""))


def _importance(study: optuna.Study, place: int) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    evaluator = FanovaImportanceEvaluator(seed=0)
    return dict(get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[place]))


def _storage(url: str, again: Callable[[optuna.Study, FrozenTrial], None]) -> RDBStorage:
    """The database. Processes that write to one SQLite file at once wait for each other."""
    options = {"connect_args": {"timeout": TIMEOUT}} if url.startswith("sqlite") else {}
    return RDBStorage(
        url,
        engine_kwargs=options,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=again,
    )


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file."""
    return f"sqlite:///{path.resolve()}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, Optuna does not say that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(SURPLUS)]


def _place(study: optuna.Study, number: int) -> int:
    """The place of a trial among those that count and are the first of their row."""
    return sum(trial.number < number and FIRST not in trial.user_attrs for trial in _counted(study))


def _suggested(trial: optuna.Trial, one: Dimension) -> Any:
    if isinstance(one, Choices):
        return trial.suggest_categorical(one.key, list(one.values))
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, step=one.step, log=one.log)


def _unreported(percent: int, score: float) -> bool:
    """Let a trial of a sweep without early stopping go on."""
    return False


def _when_free(run: Work, asked: Asked) -> tuple[Sequence[float], Mapping[str, Any]]:
    """The result of a run, which begins when no other process uses its folder.

    A worker that was suspended may go on with a trial that another one has taken over.
    """
    waits = False
    while True:
        try:
            return run(asked)
        except FolderInUse as error:
            if not waits:
                log.warning("trial %d waits for its folder: %s", asked.number, error)
            waits = True
            time.sleep(POLL)
