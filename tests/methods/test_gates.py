"""The hard-concrete distribution at any temperature."""

import math

import pytest
import torch

from secateur.methods.gates import HardConcrete

LOG_ALPHA = torch.tensor([-4.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.double)


@pytest.mark.parametrize("temperature", [0.33, 2 / 3, 0.9])
def test_samples_are_open_as_often_as_the_probability_says(temperature):
    gate = HardConcrete(temperature)
    uniform = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    samples = gate.sample(LOG_ALPHA, uniform)
    within = 5 * 0.5 / math.sqrt(200_000)
    torch.testing.assert_close((samples > 0).double().mean(0), gate.open_probability(LOG_ALPHA), atol=within, rtol=0)
    closed = gate.closed_probability(LOG_ALPHA, 0.7)
    torch.testing.assert_close((samples <= 0.7).double().mean(0), closed, atol=within, rtol=0)


def test_open_and_closed_add_up_to_one():
    gate = HardConcrete(0.5, low=-0.2, high=1.3)
    together = gate.open_probability(LOG_ALPHA) + gate.closed_probability(LOG_ALPHA)
    torch.testing.assert_close(together, torch.ones_like(LOG_ALPHA))


def test_a_gate_at_minus_infinity_is_closed_and_has_no_gradient():
    """So methods read a unit that is closed for good."""
    gate = HardConcrete()
    log_alpha = torch.zeros(2, requires_grad=True)
    closed = log_alpha.masked_fill(torch.tensor([True, False]), -torch.inf)
    values = [gate.sample(closed, torch.full((2,), 0.9)), gate.open_probability(closed), gate.noiseless(closed)]
    assert all(value[0].item() == 0.0 < value[1].item() for value in values)
    torch.stack(values).sum().backward()
    assert log_alpha.grad[0].item() == 0.0 < log_alpha.grad[1].item()


def test_noise_of_exactly_0_and_1_gives_finite_samples():
    assert HardConcrete().sample(torch.zeros(2), torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
