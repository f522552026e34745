"""Inspection: what a model consists of, and what pruning one more group would save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.measure.inspected_model import (
    Count,
    Flops,
    Inspection,
    Layer,
    ParameterCount,
    PrunableUnits,
    Saving,
    State,
)
from secateur.measure.model_size import parameter_count, stored_parts
from secateur.measure.random_inputs import tokens_read
from secateur.structure.achieved import total_before
from secateur.structure.axis_table import layer_label
from secateur.structure.cost import SCOPES
from secateur.structure.groups import kinds_of
from secateur.structure.model_parts import by_part
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.surgery.uncut import uncut
from secateur.system.model_state import saved_buffers

PARTS = ("qk", "vo", "ffn", "sublayer", "hidden")
"""Kinds of units whose groups have the name of the axis or gate that they act on. Together they describe any cut."""


def inspect(model: PreTrainedModel, tokens: int = 128) -> Inspection:
    """Inspect a dense model, or a compact one by its plan.

    Args:
        model: of a supported architecture.
        tokens: length of the sequence that operations are counted for; an image has the tokens that its model makes.

    Raises:
        UserError: the architecture or the head is not supported, or a compact model has no plan.
    """
    tokens = tokens_read([model], tokens)
    compact = bool(getattr(model.config, "secateur", None))
    dense, space, plan = _planned(model) if compact else _whole(model)
    reading = plan.read(space)
    filled = space.parameters(space.filled(plan.kept))
    return Inspection(
        architecture=model.config.model_type,
        model_class=type(model).__name__,
        compact=compact,
        method=plan.method if compact else None,
        asked=plan.asked,
        layers=tuple(_layer(space, reading, block) for block in space.table.blocks),
        hidden=_count(reading.alive["hidden"]),
        kinds={kind: Count(*counts) for kind, counts in reading.kinds().items()},
        head_dim=space.table.head_dim,
        parameters={scope: _parameters(space, plan, scope) for scope in SCOPES},
        stored=parameter_count(model),
        zeros=round(float(filled - space.parameters(plan.kept))),
        bytes=_bytes(space, model),
        flops=Flops(tokens, space.flops(plan.masks, tokens), space.flops(space.ones().cpu(), tokens)),
        savings=_savings(dense, space, plan, tokens),
        units=() if compact else tuple(_prunable(model, kind) for kind in kinds_of(space.table)),
    )


def with_stored_bytes(inspection: Inspection, model: PreTrainedModel, folder: Path) -> Inspection:
    """The inspection of a model with the bytes of its file in a folder, whose types may be narrower than in memory."""
    stored = stored_parts(folder, model)
    return inspection if stored is None else replace(inspection, bytes=stored)


def _planned(model: PreTrainedModel) -> tuple[PreTrainedModel, UnitSpace, Plan]:
    """The dense model of a compact one, the space of its plan, and the plan."""
    dense, _ = uncut(model)
    plan = Plan.from_dict(model.plan, dense)
    return dense, plan.space(dense), plan


def _whole(model: PreTrainedModel) -> tuple[PreTrainedModel, UnitSpace, Plan]:
    space = Space(model)
    return model, space, Plan.of(space, space.ones())


def _bytes(space: UnitSpace, model: PreTrainedModel) -> dict[str, int]:
    tensors = dict(model.named_parameters()) | saved_buffers(model)
    return by_part(space.table, {name: tensor.nbytes for name, tensor in tensors.items()})


def _parameters(space: UnitSpace, plan: Plan, scope: str) -> ParameterCount:
    density = plan.achieved[scope]
    total = total_before(space.table, plan.vocabulary) if scope == "model" else space.total(scope)
    return ParameterCount(round(density * total), total, density)


def _count(alive: Tensor) -> Count:
    return Count(int(alive.sum()), len(alive))


def _layer(space: UnitSpace, reading: Reading, block: str) -> Layer:
    neurons = reading.alive.get(f"{block}.ffn")
    inner = {sublayer.gate: sublayer.axes[-1] for sublayer in space.table.sublayers}
    states = {gate: _state(reading, gate, axis) for gate, axis in inner.items()}
    return Layer(
        name=layer_label(block),
        qk=tuple(reading.by_head(f"{block}.qk").sum(dim=1).tolist()),
        vo=tuple(reading.by_head(f"{block}.vo").sum(dim=1).tolist()),
        ffn=None if neurons is None else _count(neurons),
        attention=states[f"{block}.attention"],
        mlp=states.get(f"{block}.mlp"),
    )


def _state(reading: Reading, gate: str, axis: str) -> State:
    """The state of the sublayer with that gate and inner axis."""
    if not reading.alive[gate].any():
        return "gone"
    return "kept" if reading.alive[axis].any() else "bias"


def _prunable(model: PreTrainedModel, kind: str) -> PrunableUnits:
    space = Space(model, kind)
    each = round(float(space.unit_cost().mean()))
    return PrunableUnits(kind, len(space.groups), len(space), each, space.floor())


def _savings(dense: PreTrainedModel, space: UnitSpace, plan: Plan, tokens: int) -> tuple[Saving, ...]:
    """What removing each group of `PARTS` would save, one at a time, on top of the plan."""
    parts, alive = Space(dense, *PARTS), plan.read(space).alive
    kept = torch.cat([alive[group.name] for group in parts.groups]).double()
    before = _cost(parts, kept, tokens)
    groups = [group.name for group in parts.groups if group.kind != "hidden"]
    return tuple(_saving(name, before, _cost(parts, _without(parts, kept, name), tokens)) for name in groups)


def _without(space: Space, masks: Tensor, group: str) -> Tensor:
    without = masks.clone()
    without[space.slices[group]] = 0.0
    return without


def _cost(space: Space, masks: Tensor, tokens: int) -> tuple[float, float]:
    """Prunable parameters, and operations on one sequence."""
    reading = space.read(masks)
    return float(reading.parameters()), reading.flops(tokens)


def _saving(group: str, before: tuple[float, float], after: tuple[float, float]) -> Saving:
    parameters, flops = (whole - rest for whole, rest in zip(before, after, strict=True))
    shares = [saved / whole if whole else 0.0 for saved, whole in zip((parameters, flops), before, strict=True)]
    return Saving(group, layer_label(group.rpartition(".")[0]), round(parameters), shares[0], flops, shares[1])
