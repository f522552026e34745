"""What a run has used counts over all attempts, whether they ended, failed, were interrupted or killed."""

import json
import time
from types import SimpleNamespace

import pytest

from secateur.run.accounting import Accounting
from secateur.run.callbacks import Recorded


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_seconds_of_an_attempt_that_was_interrupted_are_counted(tmp_path, clock, error):
    accounting = Accounting(tmp_path)
    with pytest.raises(error), accounting.stage("prune"):
        clock.seconds += 7
        raise error
    with accounting.stage("prune"):
        clock.seconds += 5
    assert accounting.seconds() == {"prune": 12.0}
    assert {"prune", "run"} <= accounting.memory().keys()


def test_a_killed_attempt_is_counted_up_to_its_last_log_but_for_a_second(tmp_path, clock):
    killed = Accounting(tmp_path).stage("prune")
    recorded = Recorded(killed.__enter__())
    for seconds in (3, 3, 0.5):
        clock.seconds += seconds
        recorded.on_log(None, None, None)
    clock.seconds += 2
    with Accounting(tmp_path).stage("prune"):
        clock.seconds += 5
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"version": 1, "prune": 11.0}


def test_the_error_of_the_stage_is_reported_where_nothing_can_be_written(tmp_path, clock):
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="of the stage"), Accounting(tmp_path / "run").stage("prune"):
        (tmp_path / "run" / "seconds.json").write_text("{")
        raise ValueError("of the stage")
