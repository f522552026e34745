"""The learning rate over the stages and the rounds of a run."""

import pytest
import torch
from quiet import arguments

from secateur.training.learning_rate import part_of_schedule


def rates(folder, steps, part, restarts=(), warmup=2):
    """The learning rate of each of the steps of a stage, whose highest is 1."""
    args = arguments(folder, steps, learning_rate=1.0, warmup_steps=warmup, lr_scheduler_type="linear")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = part_of_schedule(args, optimizer, steps, part, restarts)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


ONE_ROUND = [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def test_a_run_of_one_round(tmp_path):
    assert rates(tmp_path, 10, (0.0, 1.0)) == pytest.approx(ONE_ROUND)


def test_stages_continue_the_schedule(tmp_path):
    assert rates(tmp_path, 4, (0.0, 0.4)) + rates(tmp_path, 6, (0.4, 1.0)) == pytest.approx(ONE_ROUND)


def test_each_round_starts_again_with_its_warm_up(tmp_path):
    assert rates(tmp_path, 20, (0.0, 1.0), restarts=(0.5,)) == pytest.approx(ONE_ROUND * 2)


def test_a_stage_may_begin_in_a_later_round(tmp_path):
    whole = rates(tmp_path, 20, (0.0, 1.0), restarts=(0.5,))
    stages = rates(tmp_path, 12, (0.0, 0.6), restarts=(0.5,)) + rates(tmp_path, 8, (0.6, 1.0), restarts=(0.5,))
    assert stages == pytest.approx(whole)


def test_rounds_of_different_lengths(tmp_path):
    short = [0, 0.5, 1, 2 / 3, 1 / 3]
    assert rates(tmp_path, 15, (0.0, 1.0), restarts=(1 / 3,)) == pytest.approx(short + ONE_ROUND)
