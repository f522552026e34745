"""A model that is cut while it is trained: units that a method has removed for good are not computed any more.

Masks, method, evidence and loss terms stay over all `(N,)` units. Only the modules get smaller, and with them the
factors at the sites of the masks (`Attachment.stored`). A removed unit has a mask of 0, its weights have no gradient,
and it is never kept again, so training continues as if nothing had been cut (law 11). The residual stream keeps its
width: its masks act at every module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.axis_table import Parameter
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.cut_structure import structure_of
from secateur.surgery.kept_indices import kept_indices, select, split_parts
from secateur.surgery.optimizer_state import ORDERS, Moments
from secateur.system.errors import UserError
from secateur.system.model_copies import blank_copy, copy_of
from secateur.system.parts import gathered, nothing_like, part_like, whole_state

STREAM = "hidden"


class Shrinking(nn.Module):
    """Cuts a model in place, repeatedly, and restores its full size at the end. Its state in a checkpoint is `kept`.

    Attributes:
        kept: `(N,)` bool, the units that the model still has; all at first.
        stored: axis -> the indices that its modules still have, in storage order, -1 for padding; axes that are not cut
            are left out.
    """

    kept: Tensor

    def __init__(self, model: PreTrainedModel, space: UnitSpace) -> None:
        super().__init__()
        self.space = space
        self.entries: Mapping[str, tuple[Parameter, ...]] = space.table.tensors
        self.register_buffer("kept", space.ones().bool())
        self.stored: Mapping[str, Tensor] = {}
        self._of = (model,)  # in a tuple, so that it is no submodule and its weights are not in `state_dict`
        self._stock: tuple[PreTrainedModel, ...] = ()
        self._removed: dict[str, int] = {}  # names of parameters that an optimizer had -> the number of their group

    @property
    def model(self) -> PreTrainedModel:
        return self._of[0]

    @torch.no_grad()
    def cut(self, kept: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Reduce the model, and the moments of an optimizer, to the units `kept`; masks must be detached.

        Args:
            kept: `(N,)` bool, a subset of the units that the model still has.

        Raises:
            UserError: the optimizer's moments cannot be cut; nothing is changed.
        """
        if optimizer is not None:
            _check_moments(optimizer)
        plan = Plan.of(self.space, kept.float().cpu(), source="")
        reading = plan.read(self.space)
        wanted = {axis: indices for axis, indices in kept_indices(reading, plan).items() if axis != STREAM}
        shapes = copy_of(self.skeleton())
        compact.reshape(shapes, structure_of(self.space, plan, reading, wanted))
        self._rebuild(shapes, wanted, kept, optimizer)

    @torch.no_grad()
    def restore(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Give the model its full size again; weights that were cut away are 0."""
        if self.stored:
            self._rebuild(copy_of(self.skeleton()), {}, torch.ones_like(self.kept), optimizer)

    @torch.no_grad()
    def full_state(self) -> dict[str, Tensor]:
        """The state of the model in its full size, with 0 for weights that were cut away."""
        if not self.stored:
            return whole_state(self.model)
        skeleton, own = self.skeleton(), dict(self.model.named_parameters())
        like = nothing_like(next(iter(own.values())))
        full = {name: self._reindexed(parts, own.get(name), {}, like) for name, parts in self.entries.items()}
        return skeleton.state_dict() | {name: full[first] for name, first in compact.first_names(skeleton).items()}

    @torch.no_grad()
    def full_moments(self, moments: Moments) -> Moments:
        """The moments of an optimizer for the model in its full size, with 0 for weights that were cut away."""
        if not self.stored:
            return moments
        return {
            name: {k: self._reindexed(self.entries[name], v, {}, v) if k in ORDERS else v for k, v in state.items()}
            for name, state in moments.items()
        }

    def skeleton(self) -> PreTrainedModel:
        """The model in its full size, without weights; of a model in parts only if it was asked for before."""
        if not self._stock:
            self._stock = (blank_copy(self.model),)
        return self._stock[0]

    def _rebuild(
        self,
        shapes: PreTrainedModel,
        wanted: Mapping[str, Tensor],
        kept: Tensor,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """Give the model new modules with the wanted indices of its weights, and the optimizer their parameters.

        Everything is computed before anything is assigned, so that an interrupt leaves the model and its optimizer as
        they were. Of a model in parts each process gathers one weight after the other, and keeps its part of the new
        one.
        """
        old, some = dict(self.model.named_parameters()), next(self.model.parameters())
        like = nothing_like(some)
        new: dict[str, nn.Parameter] = {}
        for name, blank in shapes.named_parameters():
            value = self._reindexed(self.entries[name], old.get(name), wanted, like)
            new[name] = nn.Parameter(part_like(value, some), requires_grad=blank.requires_grad)
        for name, first in compact.first_names(shapes).items():
            _assign(shapes, name, new[first])
        for name, buffer in shapes.named_buffers():
            if buffer.is_meta:  # the empty buffers of modules that replace removed ones
                _assign(shapes, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=like.device))
        modules = dict(shapes.train(self.model.training).named_children())
        moved = None if optimizer is None else self._moved(optimizer, old, new, wanted)
        rebuilt = _Rebuilt(modules, wanted, kept, moved)
        try:
            self._take(rebuilt)
        except BaseException:
            self._take(rebuilt)  # a model with some of its new modules is of no use: an interrupt waits for the rest
            raise

    def _take(self, rebuilt: _Rebuilt) -> None:
        """Assign what was computed. It may be called again if it was interrupted."""
        for name, module in rebuilt.modules.items():
            setattr(self.model, name, module)
        if rebuilt.moved is not None:
            rebuilt.moved.assign()
            self._removed = rebuilt.moved.removed
        self.kept.copy_(rebuilt.kept)
        self.stored = rebuilt.stored

    def _reindexed(
        self, parts: Sequence[Parameter], old: Tensor | None, wanted: Mapping[str, Tensor], like: Tensor
    ) -> Tensor:
        """A parameter, or a moment of one, at the wanted indices of its axes; 0 at indices that were not stored."""
        values = [None] * len(parts) if old is None else split_parts(parts, gathered(old), self.stored)
        own = [self._reindexed_part(part, one, wanted, like) for part, one in zip(parts, values, strict=True)]
        return torch.cat(own)

    def _reindexed_part(
        self, entry: Parameter, value: Tensor | None, wanted: Mapping[str, Tensor], like: Tensor
    ) -> Tensor:
        for dim, (axis, size) in enumerate(zip(entry.axes, entry.shape, strict=True)):
            if value is None or axis is None or (axis not in self.stored and axis not in wanted):
                continue
            if axis in self.stored:
                value = select(value, dim, _inverse(self.stored[axis], size))
            if axis in wanted:
                value = select(value, dim, wanted[axis])
        if value is None:
            sizes = [len(wanted.get(axis or "", range(n))) for axis, n in zip(entry.axes, entry.shape, strict=True)]
            return like.new_zeros(sizes)
        return value.detach()

    def _moved(
        self,
        optimizer: torch.optim.Optimizer,
        old: Mapping[str, Tensor],
        new: Mapping[str, nn.Parameter],
        wanted: Mapping[str, Tensor],
    ) -> _MovedOptimizer:
        """An optimizer's parameters and moments after the exchange; removed parameters are noted for `restore`."""
        names = {id(parameter): name for name, parameter in old.items()}
        groups, removed = [], dict(self._removed)
        for number, group in enumerate(optimizer.param_groups):
            mine = [(parameter, names.get(id(parameter))) for parameter in group["params"]]
            own = [p if name is None else new[name] for p, name in mine if name is None or name in new]
            groups.append(own + [new[name] for name in removed if removed[name] == number and name in new])
            removed |= {name: number for _, name in mine if name is not None and name not in new}
        state = {parameter: own for parameter, own in optimizer.state.items() if id(parameter) not in names}
        for name, parameter in old.items():
            if name in new and optimizer.state.get(parameter):
                state[new[name]] = self._moved_state(name, optimizer.state[parameter], parameter.shape, wanted)
        removed = {name: number for name, number in removed.items() if name not in new}
        return _MovedOptimizer(optimizer, groups, state, removed)

    def _moved_state(
        self, name: str, state: Mapping[str, Any], shape: torch.Size, wanted: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """The state of one parameter of that shape, with its moments at the wanted indices."""
        return {
            key: part_like(self._reindexed(self.entries[name], value, wanted, value), value)
            if torch.is_tensor(value) and value.shape == shape
            else value
            for key, value in state.items()
        }


@dataclass(frozen=True)
class _MovedOptimizer:
    """What an optimizer has after its parameters were exchanged.

    Attributes:
        groups: the parameters of each of its groups.
        state: parameter -> its state.
        removed: names of parameters that it had and that the model has no longer -> the number of their group.
    """

    optimizer: torch.optim.Optimizer
    groups: list[list[Tensor]]
    state: dict[Tensor, dict[str, Any]]
    removed: dict[str, int]

    def assign(self) -> None:
        for group, parameters in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["params"] = parameters
        self.optimizer.state = defaultdict(dict, self.state)


@dataclass(frozen=True)
class _Rebuilt:
    """New modules of a model by name, the indices that they store, the units that they keep, and their optimizer."""

    modules: Mapping[str, nn.Module]
    stored: Mapping[str, Tensor]
    kept: Tensor
    moved: _MovedOptimizer | None


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer with state of another shape than that of its parameter, such as factored moments."""
    for parameter, state in optimizer.state.items():
        moments = [value for value in state.values() if torch.is_tensor(value) and value.numel() > 1]
        if any(value.shape != parameter.shape for value in moments):
            raise UserError(
                f"{type(optimizer).__name__} keeps moments in other shapes than those of the weights, which cannot be "
                "cut with them: train without shrink, or use AdamW"
            )


def _inverse(stored: Tensor, size: int) -> Tensor:
    """`(size,)`: for each index of an axis its position among the stored ones, -1 if it is not stored."""
    inverse = torch.full((size,), -1, dtype=torch.long)
    inverse[stored[stored >= 0]] = (stored >= 0).nonzero().flatten()
    return inverse


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Set the parameter or buffer of that name."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)
