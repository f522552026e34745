"""Latency tables of other machines, devices and numbers of threads: what is refused, said, and measured anew."""

import json
import logging

import pytest
import torch
from fake_clock import SIZES, timer
from tiny_models import tiny

from secateur.budget.latency import LatencyTable
from secateur.measure.timing import machine, thread_count
from secateur.run import recipe, target
from secateur.run.recipe_target import TargetRecipe
from secateur.run.target import given_table, measured_by
from secateur.system.errors import UserError

HERE = machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def table():
    return LatencyTable.measure(tiny("bert", dtype=torch.float32, **SIZES), "ffn", timer=timer()).to_dict()


@pytest.fixture
def taken(table, tmp_path):
    """The table with changes in its protocol, as a run takes it."""

    def take(**changed):
        path = tmp_path / "table.json"
        path.write_text(json.dumps({**table, "protocol": {**table["protocol"], "machine": HERE, **changed}}))
        return given_table(TargetRecipe(density=None, speedup=2.0, latency_table=str(path)))

    return take


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7", "a device"])
def test_a_table_of_a_device_that_is_not_here_is_refused(taken, device, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device == "cuda:7")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match=f"table.json was measured on {device}, which is not here: measure one"
    ) as error:
        taken(device=device)
    assert "\n" not in str(error.value)


def test_a_table_of_a_device_that_is_here_is_taken(taken, monkeypatch, caplog):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(target, "machine", lambda device: f"{device} of {HERE}")
    with caplog.at_level(logging.WARNING, logger="secateur"):
        assert taken(device="cuda:1", machine=f"cuda:1 of {HERE}").protocol["device"] == "cuda:1"
        assert taken(device="cpu", machine=f"cpu of {HERE}").protocol["device"] == "cpu"
    assert not caplog.text


def test_a_table_of_another_machine_is_taken_which_is_said_once(taken, caplog):
    with caplog.at_level(logging.WARNING, logger="secateur"):
        for _ in range(2):
            assert taken(machine="a faster CPU").protocol["machine"] == "a faster CPU"
    assert caplog.text.count("was measured on another machine (a faster CPU), and the result is measured on this") == 1


def test_runs_share_a_table_of_their_threads_and_their_machine(monkeypatch):
    own = recipe.make({"model": "m", "data": "d", "target.density": None, "target.speedup": 2.0})
    with thread_count(1):
        one = measured_by(own)
        assert measured_by(own) == one
    with thread_count(2):
        assert measured_by(own) != one
    monkeypatch.setattr(target, "machine", lambda device: "a faster CPU")
    with thread_count(1):
        assert measured_by(own) != one
