"""The study of a sweep: what workers share, without any run; each trial is run once, and an interrupted one again."""

import errno
import multiprocessing
import shutil
import time
import warnings
from itertools import product

import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from safetensors import SafetensorError
from sqlalchemy import create_engine, text

from secateur.report.sweep import FAILED, FINISHED, RUNNING, STOPPED
from secateur.run.sweep import study as module
from secateur.run.sweep.block import Block, Sweep
from secateur.run.sweep.study import ATTEMPTS, Stopped, SweepStudy, sqlite_url
from secateur.system.errors import FolderInUse, NoRoom, UserError

OVER = {"target.density": {"low": 0.1, "high": 0.9}, "method.name": ["grain", "magnitude"]}
VALUES = {"model": "m", "data.source": "d"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An SQLite file with the tables of Optuna, whose making takes longer than a trial."""
    path = tmp_path_factory.mktemp("empty") / "study.db"
    RDBStorage(sqlite_url(path)).engine.dispose()
    return path


@pytest.fixture(autouse=True)
def _made_tables(tables, tmp_path):
    shutil.copy(tables, tmp_path)


BEGUN = {"data": "d1", "model": "m1", "teacher": None}


def opened(folder, over=OVER, name="s", begun=BEGUN, **block):
    sweep = Sweep(VALUES, Block(over=over, **block), "s.yaml")
    return SweepStudy(sqlite_url(folder / "study.db"), name, sweep, [False] * len(sweep.block.objectives), begun)


def worked(study, run, total):
    """Run trials; what each call was given."""
    seen = []

    def watched(asked):
        seen.append(asked)
        return run(asked)

    study.work(watched, total, lambda number: None, lambda running: None)
    return seen


def density(asked):
    """A run whose score is its density."""
    return [asked.point["target.density"]], {"score": asked.point["target.density"]}


def test_trials_are_numbered_and_keep_what_came_out(tmp_path):
    study = opened(tmp_path)
    seen = worked(study, density, 3)
    trials = study.trials()
    assert [trial.number for trial in trials] == [asked.number for asked in seen] == [0, 1, 2]
    assert all(trial.state == FINISHED and trial.values == (trial.point["target.density"],) for trial in trials)
    assert trials[1].result == {"score": trials[1].values[0]} and trials[1].point == seen[1].point
    assert worked(opened(tmp_path), density, 3) == [], "they are not run again"
    assert [asked.number for asked in worked(opened(tmp_path), density, 4)] == [3], "one more is"


def test_one_worker_repeats_and_trials_differ(tmp_path):
    points = []
    for name in ("one", "other"):
        points.append([asked.point for asked in worked(opened(tmp_path, name=name, sampler="random"), density, 4)])
    assert points[0] == points[1]
    assert len({point["target.density"] for point in points[0]}) == 4


def _worker(folder, total):
    worked(opened(folder), lambda asked: time.sleep(0.05) or density(asked), total)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_share_a_study_and_run_as_many_trials_as_asked_for(tmp_path):
    opened(tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_worker, args=(tmp_path, 7)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = opened(tmp_path).trials()
    assert len(trials) == 7 and {trial.state for trial in trials} == {FINISHED}
    assert len({trial.point["target.density"] for trial in trials}) == 7, "no two have the same random numbers"


def test_a_grid_has_every_combination_once(tmp_path):
    over = {"target.density": [0.1, 0.2, 0.4], "method.name": ["grain", "magnitude"]}
    seen = worked(opened(tmp_path, over, sampler="grid"), density, 6)
    assert [tuple(asked.point.values()) for asked in seen] == list(product(*over.values()))


def test_values_that_were_tried_are_not_run_again(tmp_path):
    study = opened(tmp_path, {"target.density": [0.1, 0.2]}, sampler="random")
    seen = worked(study, density, 8)
    assert len(seen) == 2
    others = [trial for trial in study.trials() if trial.same_as is not None]
    first = {asked.point["target.density"]: asked.number for asked in seen}
    assert len(others) == 6
    assert all(trial.same_as == first[trial.point["target.density"]] for trial in others)
    assert all(trial.values == (trial.point["target.density"],) and trial.result for trial in others)


# Interrupted trials


def begun(study):
    """A trial that another worker has begun."""
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        return study.study.ask()


def interrupted(study):
    """Ctrl-C in the first run."""

    def run(asked):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worked(study, run, 3)


def killed(study, folder):
    """What a worker leaves that was killed in its first run an hour ago."""
    trial = begun(study)
    for one in study.sweep.dimensions:
        module._suggested(trial, one)
    study.study._storage.record_heartbeat(trial._trial_id)
    engine = create_engine(sqlite_url(folder / "study.db"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))
    engine.dispose()


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_an_interrupted_trial_goes_on_in_its_folder(tmp_path, how):
    study = opened(tmp_path)
    interrupted(study) if how == "interrupted" else killed(study, tmp_path)
    (before,) = study.trials()
    seen = worked(opened(tmp_path), density, 3)
    assert sorted(asked.number for asked in seen)[0] == 0 and len(seen) == 3
    again = next(asked for asked in seen if asked.number == 0)
    assert again.point == before.point
    trials = opened(tmp_path).trials()
    assert [trial.state for trial in trials] == [FINISHED] * 3 and len({trial.number for trial in trials}) == 3


def test_a_trial_that_runs_elsewhere_is_left_alone_and_waited_for(tmp_path, monkeypatch):
    study = opened(tmp_path)
    elsewhere = begun(study)
    waits = []

    def pause(seconds):
        waits.append([trial.state for trial in study.trials()])
        study.study.tell(elsewhere, 0.5)

    monkeypatch.setattr(module.time, "sleep", pause)
    assert [asked.number for asked in worked(study, density, 2)] == [1]
    assert waits == [[RUNNING, FINISHED]]


def test_a_trial_that_is_interrupted_many_times_goes_on(tmp_path):
    for _ in range(ATTEMPTS + 2):
        interrupted(opened(tmp_path))
    study = opened(tmp_path)
    seen = worked(study, density, 2)
    assert (len(seen), seen[0].number) == (2, 0)
    assert [trial.state for trial in study.trials()] == [FINISHED, FINISHED]


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_another_seed_has_other_trials(tmp_path, sampler):
    values = []
    for seed in range(3):
        wide = {"target.density": {"low": 0.05, "high": 0.95}}
        own = opened(tmp_path, wide, f"of seed {seed}", sampler=sampler, seed=seed)
        values += [asked.point["target.density"] for asked in worked(own, density, 4)]
    assert len({*values}) == len(values)


def test_a_trial_that_kills_its_worker_each_time_is_given_up(tmp_path):
    for _ in range(ATTEMPTS):
        study = opened(tmp_path)
        study._fail_stale()
        killed(study, tmp_path)
    study = opened(tmp_path)
    worked(study, density, 2)
    first, second = study.trials()
    assert (first.state, second.state) == (FAILED, FINISHED)
    assert first.why == f"its worker ended {ATTEMPTS} times"


# Failing and stopping


def test_a_failed_trial_is_recorded_and_the_others_go_on(tmp_path):
    def run(asked):
        if asked.number == 1:
            raise UserError("it does not fit")
        return density(asked)

    study = opened(tmp_path)
    worked(study, run, 3)
    assert [trial.state for trial in study.trials()] == [FINISHED, FAILED, FINISHED]
    assert study.trials()[1].why == "it does not fit"


def test_three_failures_in_a_row_end_the_worker(tmp_path):
    def run(asked):
        raise UserError("it does not fit")

    study = opened(tmp_path)
    with pytest.raises(UserError, match="it does not fit"):
        worked(study, run, 9)
    assert [trial.state for trial in study.trials()] == [FAILED] * 3


def test_failures_with_others_between_them_are_not_in_a_row(tmp_path):
    def run(asked):
        if asked.number % 2:
            raise Stopped
        raise UserError("it does not fit")

    study = opened(tmp_path)
    worked(study, run, 7)
    assert [trial.state for trial in study.trials()] == [FAILED, STOPPED] * 3 + [FAILED]


def full(error):
    """An error as a run raises it on a full disk: of a library, or of this package, with that as its cause."""
    if isinstance(error, UserError) and not isinstance(error, NoRoom):
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        UserError("writing log.jsonl failed (No space left on device): nothing was written"),
        NoRoom("the run writes at least 1 GB to here, where 0 MB are free"),
    ],
)
def test_a_trial_whose_disk_is_full_ends_the_worker_and_goes_on_when_there_is_room(tmp_path, error):
    def run(asked):
        raise full(error)

    over = {"target.density": [0.1, 0.2]}
    for _ in range(ATTEMPTS + 1):
        with pytest.raises(type(error)):
            worked(opened(tmp_path, over, sampler="grid"), run, 2)
    seen = worked(opened(tmp_path, over, sampler="grid"), density, 2)
    assert seen[0].number == 0 and [asked.point["target.density"] for asked in seen] == [0.1, 0.2]
    assert [trial.state for trial in opened(tmp_path, over, sampler="grid").trials()] == [FINISHED] * 2


def test_a_trial_that_ends_its_worker_by_an_error_has_some_attempts(tmp_path):
    def run(asked):
        raise RuntimeError("a bug")

    for _ in range(ATTEMPTS):
        with pytest.raises(RuntimeError, match="a bug"):
            worked(opened(tmp_path), run, 2)
    study = opened(tmp_path)
    assert [asked.number for asked in worked(study, density, 2)] == [ATTEMPTS]
    assert [(trial.state, trial.why) for trial in study.trials()] == [
        (FAILED, f"its worker ended {ATTEMPTS} times"),
        (FINISHED, ""),
    ]


def test_a_trial_whose_folder_is_in_use_waits_for_it(tmp_path, monkeypatch):
    waits = []

    def run(asked):
        if len(waits) < 2:
            raise FolderInUse("another process is running in trials/0000")
        return density(asked)

    monkeypatch.setattr(module.time, "sleep", waits.append)
    study = opened(tmp_path)
    worked(study, run, 1)
    assert waits == [module.POLL] * 2
    assert [trial.state for trial in study.trials()] == [FINISHED]


def reporting(asked):
    """A run that scores 0.9 on the way, but from the seventh on 0.1."""
    score = 0.9 if asked.number < 6 else 0.1
    for percent in (50, 75):
        if asked.report(percent, score):
            raise Stopped
    return [score], {}


def test_a_trial_below_the_median_is_stopped(tmp_path):
    study = opened(tmp_path)
    worked(study, reporting, 8)
    states = [trial.state for trial in study.trials()]
    assert states == [FINISHED] * 6 + [STOPPED] * 2
    assert study.trials()[-1].why == "score 0.1000 after 50% of the recovery"


@pytest.mark.parametrize("resumed_at", [50, 75, 100, 101])
def test_an_interrupted_trial_is_judged_by_its_scores_before_the_interrupt_too(tmp_path, resumed_at):
    def run(asked):
        scores = {50: 0.9, 75: 0.9, 100: 0.9} if asked.number < 6 else {50: 0.95, 75: 0.85, 100: 0.85}
        attempts.append(asked.number)
        again = attempts.count(6) > 1
        for percent in (one for one in scores if one >= resumed_at or not again):
            if asked.report(percent, scores[percent]):
                raise Stopped
            if asked.number == 6 and percent == 75 and not again:
                raise KeyboardInterrupt
        return [scores[100]], {}

    attempts = []
    study = opened(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        worked(study, run, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a score that is reported twice
        warnings.simplefilter("ignore", ExperimentalWarning)
        worked(study, run, 7)
    assert [trial.state for trial in study.trials()] == [FINISHED] * 7
    reported = {50: 0.95, 75: 0.85} | ({100: 0.85} if resumed_at <= 100 else {})
    assert study.study.trials[-1].intermediate_values == reported


@pytest.mark.parametrize("block", [{"early_stopping": False}, {"objectives": ["score", "mb"]}])
def test_no_trial_is_stopped_where_that_is_not_wanted_or_several_are_searched(tmp_path, block):
    study = opened(tmp_path, **block)
    worked(study, lambda asked: (reporting(asked)[0] * len(study.sweep.block.objectives), {}), 8)
    assert {trial.state for trial in study.trials()} == {FINISHED}


# What a study is of


def test_another_sweep_is_refused_and_other_places_of_the_data_are_not(tmp_path):
    opened(tmp_path)
    with pytest.raises(UserError, match=r"the study 's' is of another sweep \(it differs in sweep.sampler\): choose"):
        opened(tmp_path, sampler="random")
    moved = Sweep({**VALUES, "model": "elsewhere"}, Block(over=OVER), "s.yaml")
    SweepStudy(sqlite_url(tmp_path / "study.db"), "s", moved, [False], BEGUN)
    with pytest.raises(UserError, match="the database of the sweep cannot be opened"):
        SweepStudy("nosuch://here", "s", moved, [False], BEGUN)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"data": "d2"}, "the data"),
        ({"model": "m2"}, "the weights of the model"),
        ({"data": "d2", "teacher": "t"}, "the data, the weights of the teacher"),
    ],
)
def test_a_study_of_other_data_or_weights_is_refused(tmp_path, other, what):
    opened(tmp_path)
    with pytest.raises(UserError, match=rf"the study 's' is of another sweep \(it differs in {what}\): choose"):
        opened(tmp_path, begun=BEGUN | other)


def test_a_study_of_a_version_that_kept_no_fingerprints_goes_on(tmp_path):
    study = opened(tmp_path)
    worked(study, density, 1)
    study.study.set_user_attr(module.BEGUN, None)
    assert len(worked(opened(tmp_path, begun=BEGUN | {"data": "d2"}), density, 2)) == 1


def test_importance_tells_what_the_values_depend_on(tmp_path):
    study = opened(tmp_path)
    worked(study, density, module.FEWEST - 1)
    assert study.importance() == {}
    worked(study, density, 12)
    shares = study.importance()["score"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["target.density"] > 0.9, "the score is the density"
