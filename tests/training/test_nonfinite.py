"""What is not finite is found at the first step, in whatever process; `test_trainer.py` tests that training stops."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from secateur.system.errors import UserError
from secateur.training.nonfinite import FiniteWatch

NAN, INF = float("nan"), float("inf")


def watch(gather=lambda steps: steps, bf16=False):
    """A watch over 9 steps, and the state that says at which one training is."""
    state = SimpleNamespace(global_step=0, max_steps=9)
    args = SimpleNamespace(device=torch.device("cpu"), bf16=bf16, output_dir="runs/x")
    return FiniteWatch(args, SimpleNamespace(gather=gather), lambda: state), state


def test_the_first_value_that_is_not_finite_is_named():
    finite, state = watch()
    for step, (loss, gradient) in enumerate([(1.0, 1.0), (1.0, INF), (NAN, NAN), (1.0, 1.0)]):
        state.global_step = step
        finite.watch("the loss", torch.tensor(loss))
        finite.watch("the gradient", torch.tensor([0.0, gradient]))
    with pytest.raises(UserError, match=r"^the gradient is not finite at step 2 of 9 \(runs/x\)"):
        finite.check()
    finite.clear()
    finite.check()


def test_all_processes_stop_if_one_has_a_value_that_is_not_finite():
    finite, _ = watch(gather=lambda steps: torch.cat([steps, torch.tensor([3.0])]))
    finite.watch("the loss", torch.tensor(1.0))
    with pytest.raises(UserError, match="the loss is not finite at step 3"):
        finite.check()


def test_weights_are_inspected_and_fp32_is_advised_in_bf16():
    model = nn.Linear(2, 2)
    finite, state = watch(bf16=True)
    finite.watch_weights(model)
    finite.check()
    state.global_step = 9  # after the last step
    model.bias.data[1] = INF
    finite.watch_weights(nn.Linear(1, 1), model)
    with pytest.raises(UserError, match=r"a weight is not finite at step 9 of 9 .*, or fp32 in place of bf16$"):
        finite.check()
