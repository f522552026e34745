"""Models of which each process holds a part: FSDP of version 2 (Zhao et al. 2023, arXiv:2304.11277; `fully_shard`).

Each parameter is split by its first dim among the processes. A layer gathers its weights when it computes, and its
gradients are averaged over the processes into the parts that these hold; the optimizer updates the parts. What is no
parameter of the model, such as masks, is whole and equal in every process.

Gathering is the work of all processes: each of them must call what does it, in the same order.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.system import compat
from secateur.system.errors import UserError
from secateur.system.model_copies import blank_copy


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


def gathered(tensor: Tensor) -> Tensor:
    """As `whole`, on the CPU; any other tensor as it is."""
    return whole(tensor).cpu() if is_part(tensor) else tensor


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
    local = own.to(like.to_local()).contiguous()
    return DTensor.from_local(
        local if local.data_ptr() != own.data_ptr() else local.clone(),
        like.device_mesh,
        like.placements,
        shape=value.shape,
        stride=value.stride(),
    )


@dataclass(frozen=True)
class Sharding:
    """How models are split among the processes.

    Attributes:
        device: on which each process computes.
        layers: names of the classes of layers, each of which is gathered by itself; those that a model names, if empty.
        frees: whether a layer frees its gathered weights between its forward and its backward.
        bf16: whether weights are gathered, and layers compute, in bf16; gradients are averaged in float32.
    """

    device: torch.device
    layers: tuple[str, ...] = ()
    frees: bool = True
    bf16: bool = False

    def split(self, model: PreTrainedModel, *, trained: bool) -> nn.Module:
        """Split a model in place, and return what is called in place of it.

        Raises:
            UserError: no layers of it are known.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        layers, root = self._layers_of(model), _Root(model)
        mesh = _mesh(self.device.type, torch.distributed.get_world_size())
        policy: Callable[..., Any] = MixedPrecisionPolicy
        if self.bf16:
            policy = partial(MixedPrecisionPolicy, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=self.frees or not trained, mp_policy=policy())
        outermost = policy(output_dtype=torch.float32) if self.bf16 else policy()
        fully_shard(root, mesh=mesh, reshard_after_forward=not trained, mp_policy=outermost)
        return root

    def _layers_of(self, model: PreTrainedModel) -> list[nn.Module]:
        """The layers of a model, which stand in a list; all other weights are gathered together."""
        names = set(self.layers or compat.layer_classes(model))
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        layers = [layer for own in lists for layer in own if type(layer).__name__ in names]
        if not layers:
            raise UserError(
                f"FSDP gathers a model layer by layer, and {type(model).__name__} has no layers of the classes "
                f"{', '.join(sorted(names)) or 'that it should name'}: name their class in "
                "fsdp_transformer_layer_cls_to_wrap"
            )
        return layers


@cache
def _mesh(kind: str, processes: int) -> Any:
    """All processes in a row; once for all models, as each could have connections of its own."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (processes,))


class _Root(nn.Module):
    """The outermost module that is split, so that the model itself keeps its class."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.module = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class ShardedModel(nn.Module):
    """A model in parts, which a training calls in place of the model, as it would call that of DDP.

    Attributes:
        root: the outermost module of the parts.

    Args:
        model: whole, and equal in all processes; it is split in place.
        optimizer: whose parameters and moments are split with the model, if it exists.
        trained: whether there will be backward passes.
    """

    root: nn.Module

    def __init__(
        self,
        model: PreTrainedModel,
        sharding: Sharding,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.sharding, self.trained = sharding, trained
        self._of = (model,)  # in a tuple, because it is a submodule of `root`
        self._blank: tuple[PreTrainedModel, ...] = ()  # the model without weights, as it is when whole
        self.split(optimizer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # no term changes it in place
            outputs = self.root(*args, **kwargs)
        if not torch.is_grad_enabled():
            self._release()
        return outputs

    def _release(self) -> None:
        """Give up gathered weights that no backward will give up."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def split(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Split the model, for the first time or again after its modules were replaced by whole ones."""
        (model,) = self._of
        self._blank = (blank_copy(model),)
        before = dict(model.named_parameters())
        self.root = self.sharding.split(model, trained=self.trained)
        after = dict(model.named_parameters())
        if optimizer is not None:
            _exchange(optimizer, {id(old): after[name] for name, old in before.items()}, part_like)

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Make the model whole again, on the CPU; all processes must call it.

        Args:
            optimizer: gets the whole parameters. Its moments stay in parts.
        """
        (model,), blank = self._of, self._blank[0]
        before = dict(model.named_parameters())
        after = {
            name: nn.Parameter(gathered(part.detach()), requires_grad=part.requires_grad)
            for name, part in before.items()
        }
        if optimizer is not None:
            new = {id(old): after[name] for name, old in before.items()}
            _exchange(optimizer, new, lambda moment, like: moment)
        _fill(blank, model, after)
        for name, child in blank.named_children():
            setattr(model, name, child)
        for name, _ in list(model.named_parameters(recurse=False)):
            setattr(model, name, after[name])
        self._blank, self.root = (), nn.Identity()


def _fill(blank: PreTrainedModel, model: PreTrainedModel, parameters: Mapping[str, nn.Parameter]) -> None:
    """Give a copy without weights these parameters, and the buffers and the modes of the model."""
    first: dict[int, str] = {}
    for name, parameter in list(blank.named_parameters(remove_duplicate=False)):
        path, _, leaf = name.rpartition(".")
        setattr(blank.get_submodule(path), leaf, parameters[first.setdefault(id(parameter), name)])
    for name, buffer in model.named_buffers():
        blank.get_buffer(name).copy_(buffer)
    for own, other in zip(blank.modules(), model.modules(), strict=True):
        own.training = other.training


def _exchange(
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
    return converted(value, parameter) if _is_moment(value, old) else value.to(parameter.device)


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
