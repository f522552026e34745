"""The state of an optimizer by names of parameters, so that training can continue with it after the model was cut.

Adam's moments are running means of the gradient and of its square (Kingma and Ba, 2015). If recovery begins with the
moments at the end of pruning, training continues as if the model had not been cut; otherwise they start from zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.model_copies import blank
from secateur.system.parts import gathered, is_part
from secateur.system.tensor_file import load_tensors, save_tensors

Moments = dict[str, dict[str, Tensor]]
"""Parameter -> `exp_avg` and `exp_avg_sq`, of its shape, and `step` `()`."""
ORDERS: Mapping[str, int] = {"exp_avg": 1, "exp_avg_sq": 2}
"""Moment -> the power of the gradient whose running mean it is."""
FORMAT = FileFormat()
"""Of a file with moments."""


def moments_of(optimizer: torch.optim.Optimizer, module: nn.Module, keep: bool = True) -> Moments:
    """The optimizer's own state of a module's parameters; those that it has never updated are left out.

    Args:
        keep: whether this process needs moments of which processes hold parts, which they all must gather; if not, it
            gets none of these.
    """
    moments: Moments = {}
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter, {})
        own = {key: state[key].detach() for key in (*ORDERS, "step") if key in state}
        full = {key: gathered(value, keep) for key, value in own.items()}
        if own and (keep or not any(map(is_part, own.values()))):
            moments[name] = full
    return moments


def set_moments(moments: Moments, optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Set an optimizer's state of those parameters of a module that it updates, to copies; others keep theirs.

    Raises:
        UserError: a moment has another shape than its parameter; nothing is set.
    """
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    updated = {name: parameter for name, parameter in module.named_parameters() if id(parameter) in own}
    check_shapes(moments, updated)
    for name, parameter in updated.items():
        if (state := moments.get(name)) is None:
            continue
        like = {key: state[key].clone().to(parameter) for key in ORDERS if key in state}
        step = state["step"].clone()  # a count, which a process has that has no weights
        optimizer.state[parameter] = {**like, "step": step if parameter.is_meta else step.to(parameter.device)}


def check_shapes(moments: Moments, parameters: Mapping[str, Tensor]) -> None:
    """Check that moments have the shapes of their parameters: not every optimizer does, and then reads others.

    Raises:
        UserError: a moment has another shape.
    """
    for name, parameter in parameters.items():
        for value in (moments[name][key] for key in ORDERS if key in moments.get(name, {})):
            if value.shape != parameter.shape:
                raise UserError(
                    f"the moments of {name} have the shape {tuple(value.shape)}, and it has {tuple(parameter.shape)}: "
                    "pass the moments of this parameter, those of a model that was cut since as "
                    "secateur.surgery.cut.cut_moments(model, plan, moments) returns them"
                )


def blank_moments(moments: Moments) -> Moments:
    """The shapes of moments, on `meta`, and their counts: for a model without weights, which another process has."""
    return {
        name: {key: blank(value) if key in ORDERS else value for key, value in state.items()}
        for name, state in moments.items()
    }


def save_moments(moments: Moments, path: Path) -> None:
    """Write moments to a safetensors file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {f"{key}.{name}": v for name, state in moments.items() for key, v in state.items()}, FORMAT)


def load_moments(path: Path) -> Moments:
    """The moments that `save_moments` wrote; of those in a file only what is used comes into memory."""
    moments: Moments = {}
    for full_name, value in load_tensors(path, FORMAT).items():
        key, _, name = full_name.partition(".")
        moments.setdefault(name, {})[key] = value
    return moments
