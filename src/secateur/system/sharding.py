"""Models of which each process holds a part: FSDP of version 2 (Zhao et al. 2023, arXiv:2304.11277; `fully_shard`).

Each parameter is split by its first dim among the processes. A layer gathers its weights when it computes, and its
gradients are averaged over the processes into the parts that these hold; the optimizer updates the parts. What is no
parameter of the model, such as masks, is whole and equal in every process.

Only the main process (rank 0) needs the weights of a model that is split, and hands every other its parts, one weight
after the other; there the model may be on `meta`. Gathered again, it is whole in the processes that had it whole.

Splitting and gathering are the work of all processes: each must call what does it, in the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.system import compat
from secateur.system.errors import UserError
from secateur.system.model_copies import blank, blank_copy
from secateur.system.model_state import without_weights
from secateur.system.optimizer_parts import exchange
from secateur.system.parts import gathered, part_from_main


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

        Args:
            model: whole in the main process, or in parts already, as after a cut.

        Raises:
            UserError: no layers of it are known.
        """
        layers, values = self._layers_of(model), _taken_out(model)
        root = self._wrapped(model, layers, trained)
        _put_in(model, values)
        _share_buffers(model, self.device)
        return root

    def _wrapped(self, model: PreTrainedModel, layers: list[nn.Module], trained: bool) -> nn.Module:
        """The outermost module of the parts of a model without weights."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        root = _Root(model)
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


def _taken_out(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by their first names; in their place it gets blank ones, tied as they were."""
    values, blanks = dict(model.named_parameters()), dict[int, nn.Parameter]()
    for name, own in list(model.named_parameters(remove_duplicate=False)):
        new = blanks.setdefault(id(own), nn.Parameter(blank(own), requires_grad=own.requires_grad))
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, new)
    return values


@torch.no_grad()
def _put_in(model: nn.Module, values: dict[str, nn.Parameter]) -> None:
    """Give a model that was split without weights its parts of these values, each of which is given up then."""
    parts: dict[int, nn.Parameter] = {}
    state: dict[str, Tensor] = {}
    for name, own in model.named_parameters(remove_duplicate=False):
        if id(own) not in parts:
            part = part_from_main(values.pop(name), own)
            parts[id(own)] = nn.Parameter(part.detach(), requires_grad=own.requires_grad)
        state[name] = parts[id(own)]
    model.load_state_dict(state, strict=False, assign=True)  # as PyTorch documents it for parts of models on `meta`


def _share_buffers(model: nn.Module, device: torch.device) -> None:
    """Give the buffers of a model their values in the main process, on the device; files do not have all of them."""
    for name, buffer in list(model.named_buffers()):
        own = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device).contiguous()
        torch.distributed.broadcast(own, src=0)
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, own)


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
        keeps: whether this process has the model whole before and after: the main one, and any other that does not have
            it on `meta`.

    Args:
        model: whole in the main process, and of the same shapes in the others; it is split in place.
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
        self.sharding, self.trained, self.keeps = sharding, trained, not without_weights(model)
        if torch.distributed.get_rank() == 0 and not self.keeps:
            raise UserError("the main process has a model without weights (on meta): only the others may")
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
            exchange(optimizer, {id(old): after[name] for name, old in before.items()}, part_from_main)

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Make the model whole again, on the CPU, where it was whole before; all processes must call it.

        Args:
            optimizer: gets the whole parameters. Its moments stay in parts.
        """
        (model,), blank = self._of, self._blank[0]
        before = dict(model.named_parameters())
        after = {
            name: nn.Parameter(gathered(part.detach(), self.keeps), requires_grad=part.requires_grad)
            for name, part in before.items()
        }
        if optimizer is not None:
            new = {id(old): after[name] for name, old in before.items()}
            exchange(optimizer, new, lambda moment, like: moment)
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
