"""Parameters that are not the model's: their groups, and their gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from secateur.training.optimizer import add_groups, average_gradients, clip_gradients


def test_groups_of_terms_and_method_are_added():
    model, terms = nn.Linear(1, 1), nn.Linear(2, 2)
    terms.bias.requires_grad_(False)
    scores = nn.Parameter(torch.zeros(3))
    method = SimpleNamespace(param_groups=lambda: [{"params": [scores], "lr": 0.5}])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    add_groups(optimizer, terms, method, weight_decay=0.2)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1, 1]
    assert optimizer.param_groups[1]["weight_decay"] == 0.2 and optimizer.param_groups[2]["lr"] == 0.5


def test_gradients_are_averaged_and_those_with_a_limit_clipped():
    free, limited = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    for parameter in (free, limited):
        parameter.grad = torch.tensor([3.0, 4.0])
    clip_gradients(SimpleNamespace(param_groups=lambda: [{"params": [free]}, {"params": [limited], "clip": 1.0}]))
    assert float(free.grad.norm()) == 5.0 and float(limited.grad.norm()) == pytest.approx(1.0, abs=1e-5)
    module = nn.Linear(1, 1)
    module.weight.grad = torch.ones(1, 1)
    average_gradients(module, lambda gradient: gradient / 2)
    assert module.weight.grad.item() == 0.5 and module.bias.grad is None
