"""The parameters of the optimizer that belong to the terms and to the method, not to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from secateur.methods.method import Method
from secateur.system.errors import UserError

Group = dict[str, Any]


def trained_by(optimizer: torch.optim.Optimizer | None) -> list[nn.Parameter]:
    """The parameters of all groups of an optimizer; none without one."""
    return [parameter for group in (optimizer.param_groups if optimizer else []) for parameter in group["params"]]


def check_trains(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that trains nothing of a model, because it was made from another.

    Raises:
        UserError: the model has parameters to train, and the optimizer none of them.
    """
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    held = {id(parameter) for parameter in trained_by(optimizer)}
    if trained and not trained & held:
        raise UserError(
            f"the {type(optimizer).__name__} that was passed in has none of the model's parameters: make it from "
            "those of the model that is trained"
        )


def add_groups(
    optimizer: torch.optim.Optimizer, terms: nn.Module, method: Method | None, weight_decay: float
) -> list[Group]:
    """Add a group with the trained parameters of the terms, and the groups of the method; returns what was added.

    Parameters that the optimizer has already are left where they are.

    Raises:
        UserError: the optimizer would minimise what the method maximises.
    """
    trained = [parameter for parameter in terms.parameters() if parameter.requires_grad]
    groups: list[Group] = [{"params": trained, "weight_decay": weight_decay}] if trained else []
    before = len(optimizer.param_groups)
    for group in groups + (method.param_groups() if method is not None else []):
        _add(optimizer, group)
    return optimizer.param_groups[before:]


def _add(optimizer: torch.optim.Optimizer, group: Group) -> None:
    holders = {id(parameter): held for held in optimizer.param_groups for parameter in held["params"]}
    held = [holders[id(parameter)] for parameter in group["params"] if id(parameter) in holders]
    missing = [parameter for parameter in group["params"] if id(parameter) not in holders]
    if group.get("maximize") and not all(own.get("maximize") for own in held):
        raise UserError("the optimizer minimises parameters that the method maximises: leave them out, they are added")
    if group.get("maximize") and "maximize" not in optimizer.defaults:
        raise UserError(
            f"the method needs an optimizer with maximize, and {type(optimizer).__name__} has none: use AdamW"
        )
    if missing:
        optimizer.add_param_group({**group, "params": missing})


def extend_schedule(scheduler: Any, groups: Sequence[Group]) -> None:
    """Let a scheduler, made before these groups were added to its optimizer, set their learning rates too.

    A group with `constant: True` keeps its learning rate; others follow the rule of all groups.

    Raises:
        UserError: the scheduler has no such rule.
    """
    if not groups:
        return
    if type(scheduler) is not LambdaLR or len({id(rule) for rule in scheduler.lr_lambdas}) != 1:
        raise UserError(
            f"the scheduler in optimizers, {type(scheduler).__name__}, cannot take the parameters of terms and method: "
            "pass one of transformers.get_scheduler, or only the optimizer"
        )
    (rule, *_) = scheduler.lr_lambdas
    for group in groups:
        own = _constant if group.get("constant") else rule
        group["initial_lr"] = group["lr"]
        group["lr"] *= own(scheduler.last_epoch)
        scheduler.base_lrs.append(group["initial_lr"])
        scheduler.lr_lambdas.append(own)


def _constant(step: int) -> float:
    return 1.0


def average_gradients(module: nn.Module, average: Callable[[Tensor], Tensor]) -> None:
    """Average over the processes the gradients of parameters that DDP does not synchronise."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = average(parameter.grad)


def clip_gradients(method: Method) -> None:
    """Clip the gradients of every group of the method that has `clip`, each group by its own norm."""
    for group in method.param_groups():
        if limit := group.get("clip"):
            nn.utils.clip_grad_norm_(group["params"], limit)
