"""Peak memory of a model, measured in a child process in which only this model is loaded."""

import subprocess
from types import SimpleNamespace

import pytest
import torch
from small_world import WORDS, write_model
from transformers import AlbertConfig, AlbertForMaskedLM

from secateur.measure import peak_memory
from secateur.measure.peak_memory import Job, Peak
from secateur.system.errors import UserError

LINUX = pytest.mark.skipif(not peak_memory.measurable(), reason="only Linux reports the peak of a process")
BLOCK = 64 * 2**20


def job(folder, **changes):
    asked = {"runtime": "pytorch", "dtype": "fp32", "threads": 1, "device": "cpu", "reads": len(WORDS)}
    return Job(**{"model": str(folder), "shapes": ((2, 16), (1, 4)), **asked, **changes})


@LINUX
def test_a_child_loads_the_model_and_runs_it(tmp_path):
    before = torch.ones(BLOCK, dtype=torch.uint8)  # of this process, which must not be counted
    found = peak_memory.peaks(job(write_model(tmp_path / "model", ["bad", "good"])))
    assert list(found) == [(1, 4), (2, 16)]
    assert all(0 < peak.model < BLOCK < peak.process for peak in found.values())
    assert before.all()


@LINUX
def test_a_model_that_cannot_be_pruned_is_measured_with_its_head(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    AlbertForMaskedLM(AlbertConfig(vocab_size=len(WORDS), embedding_size=8, **sizes)).save_pretrained(tmp_path)
    assert peak_memory.peaks(job(tmp_path, shapes=((1, 4),))).keys() == {(1, 4)}


def test_small_shapes_come_first(monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="a library's line\n[[10, 1], [20, 2]]\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert peak_memory.peaks(job("somewhere")) == {(1, 4): Peak(10, 1), (2, 16): Peak(20, 2)}
    assert '"shapes": [[1, 4], [2, 16]]' in commands[0][-1]


def test_the_last_line_of_a_failed_child_is_quoted(monkeypatch):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nMemoryError: no room\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match="no room"):
        peak_memory.peaks(job("somewhere"))
    failed.stderr, failed.returncode = "", -9
    with pytest.raises(UserError, match="exit code -9"):
        peak_memory.peaks(job("somewhere"))
