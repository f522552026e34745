"""What a log line shows of the loss."""

import torch

from secateur.training.logs import TermAverages


def test_terms_are_averaged_since_the_last_log():
    averages = TermAverages()
    for value in (1.0, 3.0):
        averages.add({"labels": torch.tensor(value), "logits": torch.tensor(2 * value)})
    assert averages.take(lambda tensor: tensor) == {"loss_labels": 2.0, "loss_logits": 4.0}
    assert averages.take(lambda tensor: tensor) == {}
