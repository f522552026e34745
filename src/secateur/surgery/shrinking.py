"""A model that is cut while it is trained: what a method has let go for good is not computed any more.

The masks stay `(N,)` over the whole model, and so do method, evidence and terms: only the modules get smaller, and the
sites of the masks (`Attachment.places`) with them. A removed unit has a mask of 0, its weights have no gradient, and it
never comes back, so that training goes on as if nothing had been cut (law 11). The residual stream stays whole: every
module is on it, and norms know its masks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.axis_table import Parameter
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.kept_indices import kept_indices, select
from secateur.surgery.optimizer_state import ORDERS, Moments
from secateur.surgery.planned_structure import structure_of

STREAM = "hidden"


class Shrinking(nn.Module):
    """Cuts a model in place, again and again, and makes it whole at the end. A checkpoint of it is `kept`.

    Attributes:
        kept: `(N,)` bool, the units that the model still has; all at first.
        places: axis -> the indices that its modules still have, in their order, -1 for padding; not of whole axes.
    """

    kept: Tensor

    def __init__(self, model: PreTrainedModel, space: UnitSpace) -> None:
        super().__init__()
        self.space = space
        self.entries: Mapping[str, Parameter] = {entry.name: entry for entry in space.table.parameters}
        self.register_buffer("kept", space.ones().bool())
        self.places: Mapping[str, Tensor] = {}
        self._of = (model,)  # in a tuple: no child, whose weights would be in a checkpoint of this
        self._stock: tuple[PreTrainedModel, ...] = ()
        self._outside: dict[str, int] = {}  # parameters that an optimizer had, and the number of their group

    @property
    def model(self) -> PreTrainedModel:
        return self._of[0]

    @torch.no_grad()
    def cut(self, kept: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Leave of the model, and of an optimizer's moments, what `kept` `(N,)` bool says; masks must not be on it.

        Every unit of `kept` must be there still.
        """
        plan = Plan.of(self.space, kept.float().cpu(), source="")
        reading = plan.read(self.space)
        wanted = {axis: indices for axis, indices in kept_indices(reading, plan).items() if axis != STREAM}
        shapes = copy.deepcopy(self._skeleton())
        compact.reshape(shapes, structure_of(self.space, plan, reading, wanted))
        self._put_in(shapes, wanted, optimizer)
        self.places = wanted
        self.kept.copy_(kept)

    @torch.no_grad()
    def restore(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Make the model whole: what was cut away is 0."""
        if self.places:
            self._put_in(copy.deepcopy(self._skeleton()), {}, optimizer)
            self.places = {}
            self.kept.fill_(True)

    @torch.no_grad()
    def whole(self) -> dict[str, Tensor]:
        """The model's state as it is before any cut, with 0 for what was cut away."""
        if not self.places:
            return self.model.state_dict()
        skeleton, own = self._skeleton(), dict(self.model.named_parameters())
        like = next(iter(own.values()))
        found = {name: self._moved(entry, own.get(name), {}, like) for name, entry in self.entries.items()}
        return skeleton.state_dict() | {name: found[first] for name, first in compact.first_names(skeleton).items()}

    @torch.no_grad()
    def whole_moments(self, moments: Moments) -> Moments:
        """An optimizer's moments of this model as they are before any cut, with 0 for what was cut away."""
        if not self.places:
            return moments
        return {
            name: {k: self._moved(self.entries[name], v, {}, v) if k in ORDERS else v for k, v in state.items()}
            for name, state in moments.items()
        }

    def _skeleton(self) -> PreTrainedModel:
        """The model as it came, without its weights."""
        if not self._stock:
            blank: dict[int, Any] = {
                id(parameter): nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
                for parameter in self.model.parameters()
            }
            self._stock = (copy.deepcopy(self.model, blank),)
        return self._stock[0]

    def _put_in(
        self, shapes: PreTrainedModel, wanted: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Fill modules with what is wanted of the model's weights, give them to the model, and the optimizer theirs."""
        old, like = dict(self.model.named_parameters()), next(self.model.parameters())
        new: dict[str, nn.Parameter] = {}
        for name, blank in shapes.named_parameters():
            value = self._moved(self.entries[name], old.get(name), wanted, like)
            new[name] = nn.Parameter(value, requires_grad=blank.requires_grad)
        for name, first in compact.first_names(shapes).items():
            _assign(shapes, name, new[first])
        for name, buffer in shapes.named_buffers():
            if buffer.is_meta:  # of modules that stand for a removed one: empty
                _assign(shapes, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=like.device))
        if optimizer is not None:
            self._move_moments(optimizer, old, new, wanted)
        for name, module in shapes.train(self.model.training).named_children():
            setattr(self.model, name, module)

    def _moved(self, entry: Parameter, old: Tensor | None, wanted: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """A parameter, or a moment of one, from the present places of its axes to the wanted ones; 0 where none was."""
        value = old
        for dim, (axis, size) in enumerate(zip(entry.axes, entry.shape, strict=True)):
            if value is None or axis is None or (axis not in self.places and axis not in wanted):
                continue
            if axis in self.places:
                value = select(value, dim, _inverse(self.places[axis], size))
            if axis in wanted:
                value = select(value, dim, wanted[axis])
        if value is None:
            sizes = [len(wanted.get(axis or "", range(n))) for axis, n in zip(entry.axes, entry.shape, strict=True)]
            return like.new_zeros(sizes)
        return value.detach()

    def _move_moments(
        self,
        optimizer: torch.optim.Optimizer,
        old: Mapping[str, Tensor],
        new: Mapping[str, nn.Parameter],
        wanted: Mapping[str, Tensor],
    ) -> None:
        """Exchange an optimizer's parameters, with the moments of what is left; those that are gone wait outside."""
        names = {id(parameter): name for name, parameter in old.items()}
        for number, group in enumerate(optimizer.param_groups):
            mine = [(parameter, names.get(id(parameter))) for parameter in group["params"]]
            group["params"] = [p if name is None else new[name] for p, name in mine if name is None or name in new]
            group["params"] += [new[name] for name in self._outside if self._outside[name] == number and name in new]
            self._outside |= {name: number for _, name in mine if name is not None and name not in new}
        self._outside = {name: number for name, number in self._outside.items() if name not in new}
        for name, parameter in old.items():
            state = optimizer.state.pop(parameter, {})
            if name in new and state:
                optimizer.state[new[name]] = {
                    key: self._moved(self.entries[name], value, wanted, value)
                    if torch.is_tensor(value) and value.shape == parameter.shape
                    else value
                    for key, value in state.items()
                }


def _inverse(places: Tensor, size: int) -> Tensor:
    """For each index of a whole axis where it is among the places, -1 if it is not."""
    inverse = torch.full((size,), -1, dtype=torch.long)
    inverse[places[places >= 0]] = (places >= 0).nonzero().flatten()
    return inverse


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put a parameter or a buffer in the place of that name."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)
