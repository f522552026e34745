"""An optimizer of a model in parts: its parameters and moments follow the model when that is split or gathered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.system.parts import is_part, part_like, whole


def exchange(
    optimizer: torch.optim.Optimizer,
    new: Mapping[int, nn.Parameter],
    converted: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Give an optimizer other parameters in place of its own, and convert the moments of these.

    Args:
        new: by the `id` of the parameter that the optimizer has.
        converted: a moment, like its new parameter.
    """
    state: dict[Tensor, Any] = {}
    for old, own in optimizer.state.items():
        parameter = new.get(id(old))
        if parameter is None:
            state[old] = own
        else:
            state[parameter] = {key: _with(parameter, value, old, converted) for key, value in own.items()}
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(parameter), parameter) for parameter in group["params"]]
    optimizer.state = defaultdict(dict, state)


def _with(parameter: Tensor, value: Any, old: Tensor, converted: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A value of an optimizer's state that goes with a new parameter: a moment converted, a count on its device."""
    if not torch.is_tensor(value):
        return value
    if _is_moment(value, old):
        return converted(value, parameter)
    return value if parameter.is_meta else value.to(parameter.device)


def _is_moment(value: Any, parameter: Tensor) -> bool:
    return torch.is_tensor(value) and value.dim() > 0 and value.shape == parameter.shape


def split_loaded(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of an optimizer with whole moments, with those that this process holds of its parameters' shapes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    own = {
        number: {
            key: part_like(value, of[number]) if _is_moment(value, of[number]) else value
            for key, value in moments.items()
        }
        for number, moments in state["state"].items()
    }
    return {**state, "state": own}


def gathered_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """An optimizer's state dict with whole moments on the CPU; without moments where it is not kept.

    All processes must call it.
    """

    def of_process(value: Any) -> Any:
        if not is_part(value):
            return value
        full = whole(value)
        return full.cpu() if keep else full.new_empty(0)

    state = optimizer.state_dict()
    moments = {number: {key: of_process(value) for key, value in own.items()} for number, own in state["state"].items()}
    return {**state, "state": moments}
