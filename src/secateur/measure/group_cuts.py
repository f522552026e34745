"""A model with one group cut at a time: the masks of each cut, and the model's outputs with each of them.

The layers in front of a cut group do not change with it. Their outputs are therefore computed once for each batch, by
the whole model, and reused for every cut behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.budget.ranking import descending
from secateur.budget.space import Space
from secateur.measure.evaluation import alone, condensed, joined
from secateur.structure.groups import Group
from secateur.surgery.input_moments import on_device
from secateur.surgery.masking import attached
from secateur.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupCut:
    """One group cut to some units: `masks` is `(N,)` of 0 and 1, and `first` the first layer whose output changes."""

    masks: Tensor
    first: int


def group_cuts(space: Space, importance: Tensor, densities: Sequence[float]) -> dict[tuple[str, int], GroupCut]:
    """(group's name, units kept) -> the cut, for every group and density; densities may keep the same number."""
    return {
        (group.name, count): GroupCut(cut_to(space, importance, group, count), layer_of(group) or 0)
        for group in space.groups
        for count in (kept_units(group, density) for density in densities)
    }


def kept_units(group: Group, density: float) -> int:
    """The number of units that a density of the group keeps, rounded down; at least one dim of the residual stream."""
    return max(int(density * group.size + 1e-9), 1 if group.kind == "hidden" else 0)


def layer_of(group: Group) -> int | None:
    """The layer that a group belongs to; None for the residual stream, which all layers share."""
    layer, dot, _ = group.name.partition(".")
    return int(layer) if dot else None


def cut_to(space: Space, importance: Tensor, group: Group, count: int) -> Tensor:
    """`(N,)` masks that keep the `count` most important units of one group, and all units of the others."""
    masks, own = space.ones(), space.slices[group.name]
    masks[own] = 0.0
    masks[own.start + descending(importance[own])[:count]] = 1.0
    return masks


@torch.inference_mode()
def outputs_of_cuts(
    model: PreTrainedModel,
    space: Space,
    cuts: Sequence[GroupCut],
    batches: Sequence[Any],
    task: Task,
) -> tuple[list[Any], Any]:
    """Outputs on all batches, of the whole model first and then of each cut, and the rows' labels.

    Outputs are `(rows, ...)`, as the task's scores take them.
    """
    outputs: list[list[Any]] = [[] for _ in range(len(cuts) + 1)]
    labels = []
    for number, batch in enumerate(batches, 1):
        inputs = on_device(batch, model)
        labels.append(alone([inputs.pop(name).cpu().numpy() for name in task.label_names]))
        for own, output in zip(outputs, in_turn(model, space, cuts, inputs), strict=True):
            values = alone([value.float().cpu().numpy() for value in output.values() if isinstance(value, Tensor)])
            own.append(condensed(task, values, labels[-1]))
        log.info("batch %d of %d", number, len(batches))
    return [joined(own) for own in outputs], joined(labels)


def in_turn(
    model: PreTrainedModel, space: Space, cuts: Sequence[GroupCut], inputs: dict[str, Tensor]
) -> Iterator[Mapping[str, Any]]:
    """Outputs on one batch: of the whole model, then of the model under each cut."""
    layers = _layers(model, space)
    with _recorded(layers) as recorded:
        yield model(**inputs)
    masks = space.ones()
    with attached(model, space, masks):
        for cut in cuts:
            masks.copy_(cut.masks)
            with _replayed(layers[: cut.first], recorded):
                yield model(**inputs)


def _layers(model: PreTrainedModel, space: Space) -> list[nn.Module]:
    """The module of each layer: the innermost that holds all of the layer's parameters."""
    paths: dict[str, list[list[str]]] = {layer: [] for layer in space.table.layers}
    for parameter in space.table.parameters:
        if parameter.layer is not None:
            paths[parameter.layer].append(parameter.name.split("."))
    shared = ([names[0] for names in takewhile(_same, zip(*own, strict=False))] for own in paths.values())
    return [model.get_submodule(".".join(path)) for path in shared]


def _same(names: Sequence[str]) -> bool:
    return len(set(names)) == 1


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """A list that collects the output of each layer inside, in order."""
    outputs: list[Any] = []
    handles = [layer.register_forward_hook(lambda module, args, output: outputs.append(output)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replayed(layers: Sequence[nn.Module], outputs: Sequence[Any]) -> Iterator[None]:
    """Inside, these layers compute nothing and return the recorded outputs."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer, output in zip(layers, outputs, strict=False):
            vars(layer)["forward"] = partial(_constant, output)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                vars(layer)["forward"] = forward


def _constant(output: Any, *args: Any, **kwargs: Any) -> Any:
    return output
