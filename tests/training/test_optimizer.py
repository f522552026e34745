"""Parameters that are not the model's: their groups, and their gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Adafactor, get_scheduler

from secateur.system.errors import UserError
from secateur.training.optimizer import add_groups, average_gradients, check_trains, clip_gradients, extend_schedule


def test_groups_of_terms_and_method_are_added():
    model, terms = nn.Linear(1, 1), nn.Linear(2, 2)
    terms.bias.requires_grad_(False)
    scores = nn.Parameter(torch.zeros(3))
    method = SimpleNamespace(param_groups=lambda: [{"params": [scores], "lr": 0.5}])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    add_groups(optimizer, terms, method, weight_decay=0.2)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1, 1]
    assert optimizer.param_groups[1]["weight_decay"] == 0.2 and optimizer.param_groups[2]["lr"] == 0.5


def test_parameters_that_the_optimizer_has_are_not_added_again():
    scores, held = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))
    method = SimpleNamespace(param_groups=lambda: [{"params": [held, scores]}])
    optimizer = torch.optim.SGD([held], lr=0.1)
    (added,) = add_groups(optimizer, nn.Module(), method, weight_decay=0.0)
    assert added["params"] == [scores]
    assert add_groups(optimizer, nn.Module(), method, weight_decay=0.0) == []


def test_an_optimizer_of_another_model_is_refused():
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    check_trains(torch.optim.SGD([model.bias], lr=0.1), model)
    with pytest.raises(UserError, match="the SGD that was passed in has none of the model's parameters: make it from"):
        check_trains(torch.optim.SGD(other.parameters(), lr=0.1), model)
    check_trains(torch.optim.SGD(other.parameters(), lr=0.1), model.requires_grad_(False))  # the method alone trains


def test_an_optimizer_that_cannot_maximise_is_refused():
    multiplier = nn.Parameter(torch.zeros(()))
    method = SimpleNamespace(param_groups=lambda: [{"params": [multiplier], "lr": 0.1, "maximize": True}])
    weight = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(UserError, match="needs an optimizer with maximize, and Adafactor has none: use AdamW"):
        add_groups(Adafactor([weight]), nn.Module(), method, weight_decay=0.0)
    with pytest.raises(UserError, match="minimises parameters that the method maximises: leave them out"):
        add_groups(torch.optim.AdamW([weight, multiplier]), nn.Module(), method, weight_decay=0.0)


def test_a_scheduler_is_extended_by_the_rule_of_all_groups():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=4)
    fixed = {"params": [nn.Parameter(torch.zeros(1))], "lr": 5.0, "constant": True}
    for group in ({"params": [nn.Parameter(torch.zeros(1))], "lr": 10.0}, fixed):
        optimizer.add_param_group(group)
    extend_schedule(scheduler, optimizer.param_groups[1:])
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for _ in range(3):
        optimizer.step()
        scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.0, 0.0, 5.0], [0.5, 5.0, 5.0], [1.0, 10.0, 5.0], [0.5, 5.0, 5.0]]


def test_a_scheduler_without_such_a_rule_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    extend_schedule(scheduler, [])
    with pytest.raises(UserError, match=r"StepLR, cannot take .* pass one of transformers.get_scheduler, or only"):
        extend_schedule(scheduler, optimizer.param_groups)


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
