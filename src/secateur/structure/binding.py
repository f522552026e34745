"""Binding: from a family's architecture and a model to the model's table of axes.

Every parameter of the model must be labelled, and every axis must have one size. A parameter that no row names is an
error and not left out, because a count that misses parameters is wrong without a sign of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from secateur.structure.architecture import (
    VOCABULARIES,
    Architecture,
    Attention,
    Axis,
    Embedding,
    Linear,
    Row,
    Stack,
)
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.axis_table import KV_AXES, AxisTable, Parameter, Sublayer
from secateur.system.errors import UserError

SENTENCE_HEAD = "sentence_head"
"""The submodule of an encoder that makes one vector of the states of all tokens (`surgery.sentence`)."""
SENTENCE_LAYER = re.compile(rf"{SENTENCE_HEAD}\.dense\.\d+\.")
"""What the names of the tensors of one of its linear layers begin with, which have a file of their own in a folder."""
Modules = Mapping[str, nn.Module]
_Labelled = tuple[str, tuple[Axis, ...], tuple[int, ...]]
"""The name of a tensor, its axes and its shape."""


@dataclass(frozen=True)
class _Layers:
    """The layers of one stack in a model: name of each (`encoder.3`) -> the prefix of the paths in it."""

    stack: Stack
    prefixes: Mapping[str, str]


def bind(model: PreTrainedModel) -> AxisTable:
    """Bind the architecture of a model's family, and check that every parameter is labelled with its size.

    Raises:
        UserError: the family or the task head is not supported, the model was cut already, or a parameter is not
            labelled.
    """
    kind = model.config.model_type
    check_family(kind, "the model")
    supported = ARCHITECTURES.all()
    if getattr(model.config, "secateur", None):
        raise UserError("the model was cut already: prune the model that it was cut from instead")
    if getattr(model.config, "is_decoder", False):
        raise UserError(f"a {kind} model with is_decoder=True is not supported: set is_decoder=False")
    _check_refused(supported[kind], model)
    table = _bind(supported[kind], model)
    _check_all_labelled(table, model)
    return table


def check_family(kind: object, model: str) -> None:
    """Refuse a model of a family that is not supported, before its weights are downloaded or read.

    Args:
        kind: the `model_type` of its config; None if that has none.
        model: what the message calls it.

    Raises:
        UserError: it is not supported.
    """
    supported = ARCHITECTURES.all()
    if kind is None:
        raise UserError(
            f"the config.json of {model} has no model_type, which names its architecture: add it, such as "
            '"model_type": "bert"'
        )
    if not isinstance(kind, str) or kind not in supported:
        raise UserError(
            f"{model} is of the architecture {kind!r}: supported are {', '.join(supported)}; "
            "convert the model to one of these, or describe it in an architecture (docs/add-an-architecture.md)"
        )


def _check_refused(architecture: Architecture, model: PreTrainedModel) -> None:
    modules = {name for name, _ in model.base_model.named_modules()}
    for path, what in architecture.refused.items():
        if path in modules:
            raise UserError(f"this {architecture.model_type} model has {what}, which is not supported: use one without")


def _bind(architecture: Architecture, model: PreTrainedModel) -> AxisTable:
    prefix = "" if model.base_model is model else model.base_model_prefix + "."
    modules = dict(model.named_modules(remove_duplicate=False))
    stacks = [_layers(stack, prefix, modules, model) for stack in architecture.stacks]
    rows, buffers = _in_one_vocabulary(
        _rows(architecture, stacks, prefix, model, modules), _buffers(architecture, model), modules
    )
    parameters = _parameters(rows, model, modules)
    sizes = _sizes([*((p.name, p.axes, p.shape) for p in parameters), *buffers])
    layers = tuple(name for one in stacks for name in one.prefixes)
    attentions = tuple(attention for one in stacks for attention in _attentions(one, modules, model.config))
    return AxisTable(
        model_type=architecture.model_type,
        rows=tuple(row for row, _ in rows),
        parameters=tuple(parameters),
        sizes={axis: size for axis, size in sizes.items() if axis not in VOCABULARIES},
        shapes={row.path: _shape(modules[row.path]) for row, _ in rows if isinstance(row, Linear)},
        layers=layers,
        stacks=len(stacks),
        heads=_head_count(architecture, model),
        kv_heads=_kv_head_count(architecture, model),
        attentions=attentions,
        sublayers=tuple(_sublayers(layers, attentions, sizes)),
        embeddings=next(row.path for row, _ in rows if isinstance(row, Embedding)),
        vocabularies={axis: size for axis, size in sizes.items() if axis in VOCABULARIES},
        buffers={name: axes for name, axes, _ in buffers},
    )


def _layers(stack: Stack, prefix: str, modules: Modules, model: PreTrainedModel) -> _Layers:
    layers = modules.get(prefix + stack.path)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"{type(model).__name__} has no layers at {prefix + stack.path}: load the model with a class that has the "
            "whole of it"
        )
    names = [f"{stack.name}.{number}" if stack.name else str(number) for number in range(len(layers))]
    return _Layers(stack, {name: f"{prefix}{stack.path}.{number}." for number, name in enumerate(names)})


# Rows


def _rows(
    architecture: Architecture, stacks: Iterable[_Layers], prefix: str, model: PreTrainedModel, modules: Modules
) -> list[tuple[Row, str | None]]:
    """The rows whose module the model has, with full paths and axes, each with the name of its layer."""
    same = _same_axes(architecture, {name.removeprefix(prefix) for name in modules})
    rows: list[tuple[Row, str | None]] = [(_full(row, prefix, None, same), None) for row in architecture.stem]
    for one in stacks:
        for layer, start in one.prefixes.items():
            rows += [(_full(row, start, layer, same), layer) for row in one.stack.rows]
    rows += [(row, None) for row in (*_task_head(architecture, model), *_sentence_head(modules))]
    own = {name for name, _ in model.named_parameters()}  # a tied weight is in it under its first name only
    return [(_tied(row, own), layer) for row, layer in rows if _stands(modules.get(row.path))]


def _stands(module: nn.Module | None) -> bool:
    """Whether the model has the module of a row: an identity stands where a layer has none."""
    return module is not None and not isinstance(module, nn.Identity)


def _same_axes(architecture: Architecture, present: set[str]) -> dict[Axis, Axis]:
    """Axis of the architecture -> the axis that it is in this model, where they differ (`Architecture.same`)."""
    if architecture.same is None:
        return {}
    axis, other, unless = architecture.same
    return {axis: None if unless in present else other}


def _full(row: Row, prefix: str, layer: str | None, same: Mapping[Axis, Axis]) -> Row:
    """The row with its full path, and its axes with the layer's name."""

    def full(axis: Axis) -> Axis:
        axis = same.get(axis, axis)
        return axis if axis is None or axis == "hidden" or layer is None else f"{layer}.{axis}"

    if isinstance(row, Linear):
        row = replace(row, out=full(row.out), into=full(row.into), adds=row.adds and prefix + row.adds)
    else:
        row = replace(row, axis=full(row.axis))
    return replace(row, path=prefix + row.path, behind=full(row.behind))


def _task_head(architecture: Architecture, model: PreTrainedModel) -> tuple[Row, ...]:
    name = type(model).__name__
    for suffix in sorted(architecture.heads, key=len, reverse=True):
        if name.endswith(suffix) and (suffix != "Model" or model.base_model is model):  # no BertLMHeadModel
            return architecture.heads[suffix]
    raise UserError(
        f"the head of {name} is not supported: for {architecture.model_type!r} supported are "
        f"{', '.join(architecture.heads)}; load the model with one of these classes"
    )


def _sentence_head(modules: Modules) -> list[Row]:
    """The linear layers of a sentence head, if the model has one, of which the first reads the residual stream."""
    paths = [p for p, m in modules.items() if p.startswith(f"{SENTENCE_HEAD}.") and isinstance(m, nn.Linear)]
    return [Linear(path, None, None if number else "hidden") for number, path in enumerate(paths)]


def _buffers(architecture: Architecture, model: PreTrainedModel) -> list[_Labelled]:
    """The labelled buffers that the model has."""
    shapes = {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    return [(name, axes, shapes[name]) for name, axes in architecture.buffers.items() if name in shapes]


def _in_one_vocabulary(
    rows: list[tuple[Row, str | None]], buffers: list[_Labelled], modules: Modules
) -> tuple[list[tuple[Row, str | None]], list[_Labelled]]:
    """Rows and buffers in which tables of embeddings that share a weight have one axis of pieces, the first's."""
    first: dict[int, Axis] = {}
    same: dict[Axis, Axis] = {}
    for row, _ in rows:
        if isinstance(row, Embedding) and row.rows is not None:
            table = next(modules[row.path].parameters(), None)  # None: it shares the factors of the first
            number = id(table) if table is not None else next(iter(first))
            same[row.rows] = first.setdefault(number, same.get(row.rows, row.rows))
    return [(_with_axis(row, same), layer) for row, layer in rows], [
        (name, tuple(same.get(axis, axis) for axis in axes), shape) for name, axes, shape in buffers
    ]


def _with_axis(row: Row, same: Mapping[Axis, Axis]) -> Row:
    if isinstance(row, Embedding):
        return replace(row, rows=same.get(row.rows, row.rows))
    return replace(row, out=same.get(row.out, row.out)) if isinstance(row, Linear) else row


def _tied(row: Row, own: set[str]) -> Row:
    return replace(row, tied=True) if isinstance(row, Linear) and f"{row.path}.weight" not in own else row


# Parameters


def _parameters(rows: Iterable[tuple[Row, str | None]], model: PreTrainedModel, modules: Modules) -> list[Parameter]:
    """The parameters of all rows, each tied weight once."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    labelled = [
        (f"{row.path}.{name}", axes, row, layer)
        for row, layer in rows
        for name, axes in row.dims(modules[row.path]).items()
    ]
    return [_parameter(name, axes, shapes[name], row, layer) for name, axes, row, layer in labelled if name in shapes]


def _parameter(name: str, axes: tuple[Axis, ...], shape: tuple[int, ...], row: Row, layer: str | None) -> Parameter:
    """The parameter, or the part of it that the row is about.

    Raises:
        UserError: its rows cannot be divided into the parts that the table says.
    """
    if not isinstance(row, Linear) or row.parts == 1:
        return Parameter(name, axes, shape, row, layer)
    if shape[0] % row.parts:
        raise UserError(f"{name} has {shape[0]} rows, not {row.parts} equal parts: the table does not describe it")
    size = shape[0] // row.parts
    return Parameter(name, axes, (size, *shape[1:]), row, layer, start=row.part * size)


def _sizes(tensors: Iterable[_Labelled]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, axes, shape in tensors:
        for axis, size in zip(axes, shape, strict=True):
            if axis is not None and sizes.setdefault(axis, size) != size:
                raise UserError(
                    f"{name} has size {size} on the axis {axis!r} where other parameters have "
                    f"{sizes[axis]}: the table does not describe this model"
                )
    return sizes


def _shape(module: Any) -> tuple[int, int]:
    """`(out, into)` of a Linear, or of an output layer that shares factorised word embeddings."""
    return module.out_features, module.in_features


def _check_all_labelled(table: AxisTable, model: PreTrainedModel) -> None:
    labelled = {parameter.name for parameter in table.parameters}
    missing = [name for name, _ in model.named_parameters() if name not in labelled]
    if missing:
        raise UserError(
            f"{len(missing)} parameters are not in the table of {table.model_type!r}, the first is {missing[0]!r}: "
            f"label them in secateur/structure/architectures/{table.model_type.replace('-', '_')}.py"
        )


# Attentions and sublayers


def _attentions(layers: _Layers, modules: Modules, config: Any) -> list[Attention]:
    """The attentions of a stack, all layers of one before the next."""
    return [
        _in_layer(attention, number, layers, modules, config)
        for attention in layers.stack.attentions
        for number in range(len(layers.prefixes))
    ]


def _in_layer(attention: Attention, number: int, layers: _Layers, modules: Modules, config: Any) -> Attention:
    """An attention of a stack with the paths and names that it has in the layer of that number."""
    layer, prefix = [*layers.prefixes.items()][number]
    path, block = prefix + attention.path, ".".join(filter(None, (layer, attention.block)))
    bias = attention.bias if f"{path}.{attention.bias}" in modules else None
    kind = getattr(config, attention.kinds)[number] if attention.kinds else None
    return replace(attention, path=path, block=block, layer=number, bias=bias, kind=kind)


def _head_count(architecture: Architecture, model: PreTrainedModel) -> int:
    """The number of heads, which must be the same in all attentions."""
    counts = {stack.heads: int(getattr(model.config, stack.heads)) for stack in architecture.stacks}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"attentions with different numbers of heads ({', '.join(f'{n}: {k}' for n, k in counts.items())}) are not "
            "supported: use a model in which all have the same number"
        )
    return next(iter(counts.values()))


def _kv_head_count(architecture: Architecture, model: PreTrainedModel) -> int:
    """The number of KV heads, which divides that of heads."""
    keys = [stack.kv_heads or stack.heads for stack in architecture.stacks]
    return int(getattr(model.config, keys[0]))


def _sublayers(layers: Iterable[str], attentions: Iterable[Attention], sizes: Mapping[str, int]) -> list[Sublayer]:
    sublayers = []
    for layer in layers:
        blocks = sorted(a.block for a in attentions if f"{a.block}.".startswith(f"{layer}."))
        for block in blocks:
            axes = (f"{block}.{axis}" for axis in (*KV_AXES.values(), *KV_AXES))
            sublayers.append(Sublayer(f"{block}.attention", layer, tuple(axis for axis in axes if axis in sizes)))
        sublayers.append(Sublayer(f"{layer}.mlp", layer, (f"{layer}.ffn",)))
    return sublayers
