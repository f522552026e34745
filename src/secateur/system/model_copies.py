"""Copies of a model that share its configs: without weights, or with the same weights in the same memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

M = TypeVar("M", bound=PreTrainedModel)


def blank_copy(model: M) -> M:
    """A copy of a model without weights, which shares its configs; its parameters are whole, on `meta`."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(blank(parameter), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy_of(model, memo)


def blank(tensor: Tensor) -> Tensor:
    """The shape and the type of a tensor, on `meta`; of a tensor of which processes hold parts, those of the whole."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model that has its weights, in the same memory, and trains none of them."""
    return copy_of(model, {id(weight): nn.Parameter(weight.detach(), False) for weight in model.parameters()})


def copy_of(model: M, memo: Mapping[int, Any] | None = None) -> M:
    """A copy of a model that shares its configs, because what is set in these after a training is set in its modules.

    Args:
        memo: what else the copy takes over, as in `copy.deepcopy`.
    """
    configs = (vars(module).get("config") for module in model.modules())
    return copy.deepcopy(model, {**(memo or {}), **{id(config): config for config in configs if config is not None}})
