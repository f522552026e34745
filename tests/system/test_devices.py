"""The device on which models are trained: the accelerator, where it computes in float64; the CPU of a Mac."""

import logging
from types import SimpleNamespace

import pytest
import torch

from secateur.run import training_arguments
from secateur.run.recipe import Recipe
from secateur.system import compat, devices
from secateur.system.errors import UserError
from secateur.training.checks import check_devices


@pytest.fixture
def found(monkeypatch):
    """A machine with an accelerator of the type that the test names."""

    def make(kind):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind and torch.device(kind))
        devices._is_used.cache_clear()

    yield make
    devices._is_used.cache_clear()


def test_an_accelerator_without_float64_is_not_used_which_is_said_once(found, caplog):
    found("mps")
    with caplog.at_level(logging.INFO, logger="secateur"):
        assert devices.accelerator() is devices.accelerator() is None
    assert caplog.text.count("the accelerator mps has no float64, in which masks are counted: the CPU is used") == 1


def test_a_gpu_is_used_without_asking_it(found):
    found("cuda")
    assert devices.accelerator() == torch.device("cuda")
    found(None)
    assert devices.accelerator() is None


@pytest.mark.parametrize(("kind", "cpu"), [("mps", True), ("cuda", False), (None, True)])
def test_a_stage_trains_on_the_cpu_where_no_accelerator_is_used(found, kind, cpu, monkeypatch):
    found(kind)
    monkeypatch.setattr(training_arguments, "uses_bf16", lambda recipe: False)
    options = training_arguments._device(Recipe(model="model", data={"source": "data"}))
    assert (options["use_cpu"], options["dataloader_pin_memory"]) == (cpu, not cpu)


def test_a_trainer_on_a_mac_is_refused_in_a_sentence(found):
    found("mps")
    with pytest.raises(UserError, match=r"the device mps has no float64.*: pass TrainingArguments\(use_cpu=True\)"):
        check_devices(SimpleNamespace(n_gpu=1, device=torch.device("mps")), False)
    check_devices(SimpleNamespace(n_gpu=0, device=torch.device("cpu")), False)


def test_a_pytorch_without_mkldnn_computes_bf16_nowhere(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert compat.cpu_computes_bf16() is False
