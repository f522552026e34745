"""Shares of micro-batches, and one sample of the masks for all of a step."""

from types import SimpleNamespace

import pytest
import torch

from secateur.training import micro_batches
from secateur.training.micro_batches import SHARES, MicroBatches

ALONE = SimpleNamespace(num_processes=1, device=torch.device("cpu"), reduce=lambda tensor, reduction: tensor)
"""Stands for the accelerator of a single process."""
MODEL = SimpleNamespace(
    dtype=torch.float32, config=SimpleNamespace(is_encoder_decoder=False), can_generate=lambda: False
)
"""Stands for a model that classifies."""


class Sampling:
    """Stands for a method whose state moves on with every sample."""

    def __init__(self):
        self.state = torch.tensor([0.0])

    def get_extra_state(self):
        return self.state.clone()

    def set_extra_state(self, state):
        self.state = state


def batch(lengths, labels):
    mask = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {"input_ids": mask.long(), "attention_mask": mask, "labels": torch.tensor(labels)}


def test_shares_are_counts_divided_by_their_average():
    batches = [batch([3, 1], [0, 1]), batch([2, 2, 4], [0, -100, -100])]
    first, second = micro_batches.shares(batches, torch.bfloat16, ALONE)
    assert first["rows"].dtype == torch.float32
    assert {name: round(float(value), 6) for name, value in first.items()} == {
        "rows": 0.8,
        "tokens": round(4 / 6, 6),
        "labels": round(2 / 1.5, 6),
    }
    assert all(float(first[name] + second[name]) == pytest.approx(2) for name in first)


def test_the_label_of_a_first_token_is_counted_only_where_an_output_predicts_it():
    batches = [batch([3, 1], [[0, 1, 2], [3, -100, -100]]), batch([2, 2], [[0, 1], [-100, 1]])]
    whole = [float(one["labels"]) for one in micro_batches.shares(batches, torch.float32, ALONE)]
    predicted = [float(one["labels"]) for one in micro_batches.shares(batches, torch.float32, ALONE, unused=1)]
    assert whole == pytest.approx([8 / 7, 6 / 7]) and predicted == [1.0, 1.0]


def test_what_no_micro_batch_has_is_shared_by_none():
    """Of a single label in several, its micro-batch has all."""
    none, one = batch([2], [[-100, -100]]), batch([2], [[-100, 1]])
    assert [float(own["labels"]) for own in micro_batches.shares([none, none], torch.float32, ALONE)] == [0.0, 0.0]
    whole = micro_batches.shares([none, one, none, none], torch.float32, ALONE)
    assert [float(own["labels"]) for own in whole] == [0.0, 4.0, 0.0, 0.0]


def test_one_micro_batch_in_one_process_has_no_shares():
    batches = [batch([2], [0])]
    MicroBatches(MODEL, None, ALONE).begin(batches)
    assert SHARES not in batches[0]


def test_the_micro_batches_of_a_step_repeat_one_sample():
    method = Sampling()
    micro = MicroBatches(MODEL, method, ALONE)
    micro.begin([batch([2], [0]), batch([3], [1])])
    method.state += 1  # the first micro-batch has sampled
    micro.repeat_sample()
    assert method.state.tolist() == [0.0]
    micro.begin([batch([2], [0])])
    method.state += 1
    micro.repeat_sample()
    assert method.state.tolist() == [1.0], "a single one samples as it likes"
