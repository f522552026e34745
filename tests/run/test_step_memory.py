"""The memory of a run is the highest of its steps, with the code for the lengths of batches that were not measured."""

from types import SimpleNamespace

import torch

from secateur.run.step_memory import StepMemory
from secateur.system import process_memory


def trained(steps, optimizer=None, moments=0):
    """`moments`: bytes of those of a refit."""
    refit = torch.nn.Module()
    refit.register_buffer("xx", torch.zeros(moments, dtype=torch.uint8))
    return SimpleNamespace(plain_optimizer=optimizer, refit=refit, state=SimpleNamespace(global_step=steps))


def test_code_is_predicted_for_all_lengths_and_moments_are_no_code(monkeypatch):
    def take(trainer, lengths, peak, grown):
        held = iter((1_000, 1_000 + grown))
        monkeypatch.setattr(process_memory, "anonymous", lambda: next(held))
        monkeypatch.setattr(process_memory, "peaks", lambda: {"resident": peak})
        with memory.of(trainer, 4, lengths):
            pass
        return memory.highest["resident"]

    memory = StepMemory()
    assert take(trained(4), lengths=4, peak=5_000, grown=400) == 5_000
    assert take(trained(6), lengths=16, peak=5_000, grown=400) == 6_200
    assert take(trained(2), lengths=16, peak=5_000, grown=400) == 7_800
    assert take(trained(4), lengths=16, peak=5_000, grown=-400) == 7_800  # the highest of all
    optimizer = torch.optim.AdamW([weight := torch.nn.Parameter(torch.ones(100))])
    weight.sum().backward()
    optimizer.step()
    assert take(trained(4, optimizer), lengths=16, peak=8_000, grown=800) == 8_000
    assert take(trained(4, optimizer, moments=300), lengths=16, peak=8_500, grown=1_100) == 8_500
