"""The labelled table of a Transformer: on which named axis does each dimension of each parameter lie?

A family is described once, as data (`Architecture`, one file each in `architectures/`). `find(model)` binds that
description to a model and gives its `Table`. Masks, cost, surgery and reports are readings of the table; nothing else
knows an architecture.

Axes inside a layer carry the layer's number: `3.qk`, `3.vo`, `3.ffn`. The residual stream is the axis `hidden`. A
dimension that nothing may prune (vocabulary, labels) has the axis `None`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules

from torch import nn
from transformers import PreTrainedModel

from secateur.errors import UserError

Axis = str | None
SUBLAYERS = ("attention", "mlp")


@dataclass(frozen=True)
class Linear:
    """A `torch.nn.Linear`: weight `(out, into)`, bias `(out,)`. `behind` names the sublayer whose gate silences it.

    `adds` is the module, if it is one of its own, that is called with a sublayer's result and the stream and adds them.
    """

    path: str
    out: Axis
    into: Axis
    behind: str | None = None
    adds: str | None = None

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        return {"weight": (self.out, self.into), "bias": (self.out,)}


@dataclass(frozen=True)
class Norm:
    """A LayerNorm over `axis`; one that is `behind` a sublayer becomes the identity where the sublayer's gate is 0."""

    path: str
    axis: Axis
    behind: str | None = None

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        return {"weight": (self.axis,), "bias": (self.axis,)}


@dataclass(frozen=True)
class Embedding:
    """A lookup table `(rows, axis)`, or its factorisation: a table `(rows, rank)` and a projection `(axis, rank)`."""

    path: str
    axis: Axis
    behind: str | None = None

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        if isinstance(module, nn.Embedding):
            return {"weight": (None, self.axis)}
        return {"table.weight": (None, None), "projection.weight": (self.axis, None)}


Row = Linear | Norm | Embedding


@dataclass(frozen=True)
class Attention:
    """Where a layer's self-attention lies, and what it calls its projections.

    `output` is named only where the output projection is a child of the same module.
    """

    path: str
    query: str
    key: str
    value: str
    output: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A family of models, as data.

    Paths in `stem` and `layer` are relative to the base model and to one layer; paths in `heads` to the whole model.
    `heads` is keyed by what follows the family's name in the class name (`Model` is the bare encoder). `same` makes
    two axes one, unless the named module exists: ELECTRA's embeddings write to the stream only where nothing projects.
    `neurons` is what the family's config calls the width of its feed-forward networks.
    """

    model_type: str
    layers: str
    stem: tuple[Row, ...]
    layer: tuple[Row, ...]
    attention: Attention
    heads: Mapping[str, tuple[Row, ...]]
    same: tuple[str, str, str] | None = None
    neurons: str = "intermediate_size"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a bound model: its full name, the axis and the size of each dimension, and its row.

    `layer` is the layer that it lies in, None in the stem and in the task's head.
    """

    name: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    row: Row
    layer: int | None

    @property
    def inner(self) -> bool:
        """Whether a dimension lies on an axis inside a layer (qk, vo, ffn): what density counts."""
        return any(axis is not None and axis != "hidden" for axis in self.axes)


@dataclass(frozen=True)
class Table:
    """An architecture bound to a model: rows with full module paths and full axis names, and the size of each axis."""

    model_type: str
    rows: tuple[Row, ...]
    parameters: tuple[Parameter, ...]
    sizes: Mapping[str, int]
    layers: int
    heads: int
    attentions: tuple[Attention, ...]
    embeddings: str

    @property
    def head_dim(self) -> int:
        """Dimensions of one head before pruning; the softmax scale stays its inverse square root."""
        return self.sizes["0.vo"] // self.heads

    def writer(self, sublayer: str) -> Linear:
        """The Linear through which a sublayer (`3.attention`) writes to the residual stream."""
        return next(r for r in self.rows if isinstance(r, Linear) and r.behind == sublayer and r.out == "hidden")

    def reader(self, axis: str) -> Linear:
        """The Linear whose input lies on an inner axis (`3.vo`, `3.ffn`)."""
        return next(row for row in self.rows if isinstance(row, Linear) and row.into == axis)

    def makers(self, axis: str) -> list[Linear]:
        """The Linears whose output lies on an inner axis, in the table's order (query before key)."""
        return [row for row in self.rows if isinstance(row, Linear) and row.out == axis]


def supported() -> dict[str, Architecture]:
    """Every registered architecture, by Hugging Face `model_type`: one per file in `architectures/`."""
    from secateur import architectures

    modules = (import_module(f"{architectures.__name__}.{m.name}") for m in iter_modules(architectures.__path__))
    return {module.ARCHITECTURE.model_type: module.ARCHITECTURE for module in modules}


def find(model: PreTrainedModel) -> Table:
    """Bind the model's architecture and check that every parameter is labelled with the size that it has.

    Raises:
        UserError: the family or the head is not supported, the model was cut already, or a parameter is not labelled.
    """
    kind = model.config.model_type
    known = supported()
    if kind not in known:
        raise UserError(
            f"architecture {kind!r} is not supported: supported are {', '.join(sorted(known))}; "
            "convert the model to one of these, or add a file to secateur/architectures"
        )
    if getattr(model.config, "secateur", None):
        raise UserError("the model was cut already: prune the model that it was cut from instead")
    if getattr(model.config, "is_decoder", False):
        raise UserError(f"a {kind} model with is_decoder=True is not supported: set is_decoder=False")
    table = _bind(known[kind], model)
    _check(table, model)
    return table


def _bind(architecture: Architecture, model: PreTrainedModel) -> Table:
    prefix = "" if model.base_model is model else model.base_model_prefix + "."
    starts = [f"{prefix}{architecture.layers}.{index}." for index in range(model.config.num_hidden_layers)]
    modules = dict(model.named_modules())
    same = _same_axes(architecture, {name.removeprefix(prefix) for name in modules})
    placed: list[tuple[Row, int | None]] = [(_placed(row, prefix, None, same), None) for row in architecture.stem]
    for index, start in enumerate(starts):
        placed += [(_placed(row, start, index, same), index) for row in architecture.layer]
    placed += [(row, None) for row in _head_rows(architecture, model)]
    placed = [(row, layer) for row, layer in placed if row.path in modules]
    parameters = [p for row, layer in placed for p in _parameters(row, layer, modules[row.path])]
    return Table(
        model_type=architecture.model_type,
        rows=tuple(row for row, _ in placed),
        parameters=tuple(parameters),
        sizes=_sizes(parameters),
        layers=len(starts),
        heads=model.config.num_attention_heads,
        attentions=tuple(replace(architecture.attention, path=s + architecture.attention.path) for s in starts),
        embeddings=prefix + next(row.path for row in architecture.stem if isinstance(row, Embedding)),
    )


def _head_rows(architecture: Architecture, model: PreTrainedModel) -> tuple[Row, ...]:
    name = type(model).__name__
    for suffix in sorted(architecture.heads, key=len, reverse=True):
        if name.endswith(suffix):
            return architecture.heads[suffix]
    raise UserError(
        f"the head of {name} is not supported: for {architecture.model_type!r} supported are "
        f"{', '.join(architecture.heads)}; load the model with one of these classes"
    )


def _same_axes(architecture: Architecture, present: set[str]) -> dict[Axis, Axis]:
    """How to read the architecture's axes in this model (see `Architecture.same`)."""
    if architecture.same is None:
        return {}
    axis, other, unless = architecture.same
    return {axis: None if unless in present else other}


def _placed(row: Row, prefix: str, layer: int | None, same: Mapping[Axis, Axis]) -> Row:
    """The row with its full path, and its axes with the layer's number."""

    def full(axis: Axis) -> Axis:
        axis = same.get(axis, axis)
        return axis if axis is None or axis == "hidden" or layer is None else f"{layer}.{axis}"

    if isinstance(row, Linear):
        row = replace(row, out=full(row.out), into=full(row.into), adds=row.adds and prefix + row.adds)
    else:
        row = replace(row, axis=full(row.axis))
    return replace(row, path=prefix + row.path, behind=full(row.behind))


def _parameters(row: Row, layer: int | None, module: nn.Module) -> list[Parameter]:
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return [
        Parameter(f"{row.path}.{name}", axes, shapes[name], row, layer)
        for name, axes in row.dims(module).items()
        if name in shapes
    ]


def _sizes(parameters: list[Parameter]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for parameter in parameters:
        for axis, size in zip(parameter.axes, parameter.shape, strict=True):
            if axis is not None and sizes.setdefault(axis, size) != size:
                raise UserError(
                    f"{parameter.name} has size {size} on the axis {axis!r} where other parameters have "
                    f"{sizes[axis]}: the table does not describe this model"
                )
    return sizes


def _check(table: Table, model: PreTrainedModel) -> None:
    named = {parameter.name for parameter in table.parameters}
    missing = [name for name, _ in model.named_parameters() if name not in named]
    if missing:
        raise UserError(
            f"{len(missing)} parameters are not in the table of {table.model_type!r}, the first is {missing[0]!r}: "
            f"label them in secateur/architectures/{table.model_type}.py"
        )
