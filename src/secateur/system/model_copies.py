"""Copies of a model that share its configs: without weights, or with the same weights in the same memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def blank_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model without weights, which shares its configs."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy_of(model, memo)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model that has its weights, in the same memory, and trains none of them."""
    return copy_of(model, {id(weight): nn.Parameter(weight.detach(), False) for weight in model.parameters()})


def copy_of(model: PreTrainedModel, memo: Mapping[int, Any] | None = None) -> PreTrainedModel:
    """A copy of a model that shares its configs, because what is set in these after a training is set in its modules.

    Args:
        memo: what else the copy takes over, as in `copy.deepcopy`.
    """
    configs = (vars(module).get("config") for module in model.modules())
    return copy.deepcopy(model, {**(memo or {}), **{id(config): config for config in configs if config is not None}})
