"""Tensors of which each process holds a part, and whole ones made of them or split into them (`sharding`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.system.model_copies import blank


def is_part(tensor: Any) -> bool:
    """Whether this process holds a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds parts of a model's parameters."""
    return any(map(is_part, model.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which processes hold parts, whole, on its device, in each of them; any other tensor as it is."""
    part: Any = tensor
    return part.full_tensor() if is_part(part) else part


def gathered(tensor: Tensor, keep: bool = True) -> Tensor:
    """As `whole`, on the CPU; any other tensor as it is.

    Args:
        keep: whether this process needs it; if not, it only gives its part, and gets the shape, on `meta`.
    """
    if not is_part(tensor):
        return tensor
    full = whole(tensor)
    return full.cpu() if keep else blank(full)


def nothing_like(tensor: Tensor) -> Tensor:
    """`(0,)`, of the type and in the place of what `gathered` gives for a tensor."""
    return torch.empty(0, dtype=tensor.dtype, device="cpu" if is_part(tensor) else tensor.device)


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; any other tensor as it is."""
    part: Any = tensor
    return part.to_local() if is_part(part) else part


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict with whole tensors, those of parts on the CPU; all processes must call it."""
    return model.state_dict() | gathered_parts(model)


def gathered_parts(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The whole values, on the CPU, of those parameters of which processes hold parts; all processes must call it.

    Args:
        keep: whether this process needs them; if not, it only gives its parts, and nothing is returned.
    """
    values: dict[int, Tensor] = {}
    names: dict[str, int] = {}
    for name, part in model.named_parameters(remove_duplicate=False):
        if is_part(part) and id(part) not in values:
            value = whole(part.detach())
            values[id(part)] = value.cpu() if keep else value.new_empty(0)
        names[name] = id(part)
    return {name: values[part] for name, part in names.items() if part in values} if keep else {}


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds, if another one is in parts; else, or if it is one, itself.

    Args:
        value: equal in all processes.
        like: split by its first dim among processes, on whose devices the parts are.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    size = -(-len(value) // like.device_mesh.size())
    own = value[like.device_mesh.get_local_rank() * size :][:size]
    local = own.to(like.to_local().device).contiguous()
    return DTensor.from_local(
        local if local.data_ptr() != own.data_ptr() else local.clone(),
        like.device_mesh,
        like.placements,
        shape=value.shape,
        stride=value.stride(),
    )


def part_from_main(value: Tensor, like: Tensor) -> Tensor:
    """The part that this process holds of a tensor, which the main process has whole; a part as it is.

    All processes must call it.

    Args:
        value: of the same shape and type in all processes; only the main one's values are read.
        like: in parts, as the result.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    if is_part(value):
        return value
    mesh = like.device_mesh
    given = value.detach() if mesh.get_local_rank() == 0 else value.new_empty(value.shape, device=mesh.device_type)
    return distribute_tensor(given, mesh, like.placements)
