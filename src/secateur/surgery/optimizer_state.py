"""What an optimizer knows of parameters, by their names: to go on with it after the model was cut.

Adam's moments are running means of the gradient and of its square (Kingma and Ba, 2015). A model that recovers with
those that pruning left behind goes on as if it had never been cut; with none it starts as an untrained one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Moments = dict[str, dict[str, Tensor]]
"""Parameter -> `exp_avg` and `exp_avg_sq`, of its shape, and `step` `()`."""
ORDERS: Mapping[str, int] = {"exp_avg": 1, "exp_avg_sq": 2}
"""Moment -> the power of the gradient that it is a mean of."""


def moments_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> Moments:
    """Copies of what the optimizer knows of the module's parameters; it knows nothing of those that it never moved."""
    known = {name: optimizer.state.get(parameter, {}) for name, parameter in module.named_parameters()}
    return {
        name: {key: state[key].detach().clone() for key in (*ORDERS, "step") if key in state}
        for name, state in known.items()
        if state
    }


def give_moments(moments: Moments, optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Let an optimizer go on with these moments, of the module's parameters that it has; others start anew."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in module.named_parameters():
        if name in moments and id(parameter) in held:
            state = moments[name]
            like = {key: state[key].to(parameter) for key in ORDERS if key in state}
            optimizer.state[parameter] = {**like, "step": state["step"].clone().to(parameter.device)}


def save_moments(moments: Moments, path: Path) -> None:
    """Write them to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({f"{key}.{name}": v.contiguous() for name, state in moments.items() for key, v in state.items()}, partial)
    partial.replace(path)


def load_moments(path: Path) -> Moments:
    """What `save_moments` wrote."""
    moments: Moments = {}
    for where, value in load_file(path).items():
        key, _, name = where.partition(".")
        moments.setdefault(name, {})[key] = value
    return moments
