"""The learning rate over the stages and the rounds of a run."""

import pytest
import torch
from quiet import arguments
from transformers import get_scheduler

from secateur.system.errors import UserError
from secateur.training.learning_rate import part_of_schedule


def rates(folder, steps, part, restarts=(), warmup=2, kind="linear", options=None):
    """The learning rate of each of the steps of a stage, whose highest is 1."""
    args = arguments(
        folder,
        steps,
        learning_rate=1.0,
        warmup_steps=warmup,
        lr_scheduler_type=kind,
        lr_scheduler_kwargs=options,
    )
    optimizer = sgd()
    return followed(part_of_schedule(args, optimizer, steps, part, restarts), optimizer, steps)


def sgd():
    """An optimizer with a learning rate of 1."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def followed(scheduler, optimizer, steps):
    """The learning rate of each step."""
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


OPTIONS = {
    "cosine_with_min_lr": {"min_lr": 0.2},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"lr_end": 0.3, "power": 2.0},
    "inverse_sqrt": {"timescale": 3},
    "warmup_stable_decay": {"num_decay_steps": 4},
}


@pytest.mark.parametrize(("kind", "options"), OPTIONS.items())
def test_options_of_a_schedule_are_those_of_transformers_over_all_stages(tmp_path, kind, options):
    optimizer = sgd()
    known = followed(get_scheduler(kind, optimizer, 2, 10, options), optimizer, 10)
    first, last = (
        rates(tmp_path, steps, part, kind=kind, options=options) for steps, part in ((4, (0.0, 0.4)), (6, (0.4, 1.0)))
    )
    assert first + last == pytest.approx(known)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("polynomial", {"lr_end": 2.0}, "must be smaller than initial lr"),
        ("cosine_with_min_lr", None, "min_lr"),
        ("warmup_stable_decay", {}, "num_decay_steps"),
        ("linear", {"power": 2.0}, "power"),
    ],
)
def test_options_that_do_not_fit_the_schedule_are_refused(tmp_path, kind, options, reason):
    with pytest.raises(UserError, match=rf"lr_scheduler_kwargs .* do not fit lr_scheduler_type {kind}: .*{reason}"):
        rates(tmp_path, 4, (0.0, 1.0), kind=kind, options=options)
