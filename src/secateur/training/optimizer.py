"""The parameters of the optimizer that belong to the terms and to the method, not to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.methods.method import Method


def add_groups(optimizer: torch.optim.Optimizer, terms: nn.Module, method: Method | None, weight_decay: float) -> None:
    """Add a group with the trained parameters of the terms, and the groups that the method asks for."""
    trained = [parameter for parameter in terms.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": weight_decay}] if trained else []
    for group in groups + (method.param_groups() if method is not None else []):
        optimizer.add_param_group(group)


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
