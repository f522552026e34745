"""GRAIN observes the gradient of one step in `every`: which steps, and what the moving average is then."""

import pytest
import torch
from golden_bert import build_bert
from quiet import arguments
from tiny_models import tiny
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import linear
from secateur.system.errors import UserError
from secateur.training.trainer import PruningTrainer


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"))


def observed(every, steps, gradient, **options):
    """GRAIN after a number of steps with the same gradient, and the steps in which it observed the gradient."""
    method = Grain(Space(tiny("bert")), linear(1.0, 0.5, begin=0.4, end=0.9), every=every, **options)
    observed_steps = []
    for step in range(steps):
        if method.listens_to:
            observed_steps.append(step)
            method.observe(gradient)
        method.advance((step + 1) / 100)
    return method, observed_steps


def test_the_gradient_is_observed_in_one_step_of_every(space):
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    assert observed(1, 8, gradient)[1] == list(range(8))
    assert observed(3, 8, gradient)[1] == [0, 3, 6]
    assert observed(7, 95, gradient)[1] == [*range(0, 90, 7)], "and none after the end of the schedule"


@pytest.mark.parametrize("every", [2, 4, 8])
def test_the_moving_average_spans_the_same_number_of_steps(space, every):
    """With a constant gradient it is 1 - beta^steps of it, observed in every step or in some of them."""
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    some, all_ = (observed(n, 32, gradient, beta=0.9, alpha=0.0)[0].importance for n in (every, 1))
    torch.testing.assert_close(some, all_)
    torch.testing.assert_close(some, (1 - 0.9**32) * gradient)


def test_observing_every_step_is_the_published_average_bit_for_bit(space):
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    expected = torch.zeros_like(gradient)
    for _ in range(5):
        expected.mul_(0.998).add_(gradient, alpha=1.0 - 0.998)
    assert torch.equal(observed(1, 5, gradient, alpha=0.0)[0].importance, expected)


def test_all_micro_batches_of_an_observed_step_are_observed(tmp_path):
    """Two micro-batches of four rows equal one batch of eight, and the next step is not observed."""

    def importance(steps, rows, micro_batches):
        model = build_bert()
        method = Grain(Space(model), linear(1.0, 0.5, begin=0.5, end=0.9), every=2)
        noise = torch.Generator().manual_seed(0)
        ids = torch.randint(1, 50, (16, 5), generator=noise)
        PruningTrainer(
            model,
            method=method,
            args=arguments(
                tmp_path,
                4,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=micro_batches,
            ),
            train_dataset=[{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 3} for i in ids],
            callbacks=[StopAfter(steps)],
        ).train()
        return method.importance

    whole, parts = importance(1, 8, 1), importance(1, 4, 2)
    torch.testing.assert_close(parts, whole, atol=1e-7, rtol=1e-4)
    assert torch.equal(importance(2, 4, 2), parts) and not torch.equal(importance(3, 4, 2), parts)


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_an_every_below_one_is_refused(space, every):
    with pytest.raises(UserError, match=f"every is {every}: expected a whole number of steps from 1 on"):
        Grain(space, every=every)
