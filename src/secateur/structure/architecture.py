"""The labelled table of a Transformer: on which named axis does each dimension of each parameter lie?

A family is described once, as data (`Architecture`, one file each in `architectures/`). `find(model)` binds that
description to a model and gives its `Table`. Masks, cost, surgery and reports are readings of the table; nothing else
knows an architecture.

Axes inside a layer carry the layer's name: `3.qk`, `3.vo`, `3.ffn` in a family with one stack of layers,
`encoder.3.ffn` and `decoder.3.ffn` in one with two; a second attention of a layer has a name of its own,
`decoder.3.cross.vo`. The residual stream is the axis `hidden`. A dimension that nothing may prune (vocabulary, labels)
has the axis `None`.

Encoder and decoder share the one axis `hidden`. They are one width already: the table of word embeddings is mostly one
for both and for the decoder's output, and cross-attention reads the one stream while it writes to the other. One mask
for both is then exact, where two would leave a tied table with columns that only one of its users has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.system.errors import UserError

Axis = str | None


@dataclass(frozen=True)
class Linear:
    """A `torch.nn.Linear`: weight `(out, into)`, bias `(out,)`. `behind` names the sublayer whose gate silences it.

    `adds` is the module, if it is one of its own, that is called with a sublayer's result and the stream and adds them.
    `tied` is found when the table is bound: the weight is an embedding's, which counts it and whose masks it bears.
    """

    path: str
    out: Axis
    into: Axis
    behind: str | None = None
    adds: str | None = None
    tied: bool = False

    def dims(self, module: nn.Module) -> dict[str, tuple[Axis, ...]]:
        return {"weight": (self.out, self.into), "bias": (self.out,)}


@dataclass(frozen=True)
class Norm:
    """A norm over `axis`; one that is `behind` a sublayer becomes the identity where the sublayer's gate is 0.

    A LayerNorm, or, if not `centred`, one that divides by the root mean square and has no bias. It stands after the
    sum of a sublayer and the stream (post-LN) or before the sublayer (pre-LN): where the gate is 0, the sum is the
    stream, and what a sublayer reads that says nothing does not matter.
    """

    path: str
    axis: Axis
    behind: str | None = None
    centred: bool = True

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


Call = Literal["encoder", "encoder_bias", "seq2seq", "seq2seq_bias"]
"""How a stock layer calls its attention: the arguments, in order, and what is returned. None of them is rotary.

`encoder`: `(hidden_states, attention_mask)`; returns `(output, probabilities)`.
`encoder_bias`: `(hidden_states, attention_mask, position_bias)`, where the encoder looks up the relative position bias
    once, `(batch, heads, queries, keys)`, and hands it to every layer; returns `(output, ...)`.
`seq2seq`: `(hidden_states, key_value_states, past_key_values, attention_mask)`, with the states of the encoder
    (cross-attention) and a cache; returns `(output, probabilities)`.
`seq2seq_bias`: `(hidden_states, mask, key_value_states, position_bias, past_key_values)`, where the first layer of a
    stack looks up the relative position bias, `(1, heads, queries, keys)`; returns `(output, bias, probabilities)`.

For each there is a class in `secateur.surgery.compact.attention`.
"""


@dataclass(frozen=True)
class Attention:
    """Where an attention of a layer lies, how the layer calls it, and the names of its projections.

    Attributes:
        path: relative to the layer; once bound, in the whole model.
        call: how the layer calls it.
        query, key, value: names of the projections.
        output: name of the output projection, where it is a child of the same module.
        block: what stands before the names of its axes and of its gate: nothing for the only or the self-attention of a
            layer, `cross`; once bound with the layer in front, `3` or `decoder.3.cross`.
        scale: of the scores, None for the inverse square root of a head's dims.
        causal: whether a token sees only itself and those before it, where no mask is given.
        bias: name of the child that is the table of relative position biases, in the layer that has it; once bound,
            None in all others.
        layer: number of the layer in its stack, set when the table is bound.
    """

    path: str
    call: Call
    query: str
    key: str
    value: str
    output: str | None = None
    block: str = ""
    scale: float | None = None
    causal: bool = False
    bias: str | None = None
    layer: int = 0

    @property
    def takes_bias(self) -> bool:
        """Whether a relative position bias is added to the scores."""
        return self.call in ("encoder_bias", "seq2seq_bias")


@dataclass(frozen=True)
class Stack:
    """Numbered layers of one kind.

    `path` is that of the list of layers in the base model; paths in `rows` and `attentions` are relative to one layer.
    `name` stands before the numbers of the layers in a family with several stacks. `heads` is what the family's config
    calls the number of heads. The model's heads are counted stack by stack, in the order of `attentions`.
    """

    path: str
    rows: tuple[Row, ...]
    attentions: tuple[Attention, ...]
    name: str = ""
    heads: str = "num_attention_heads"


@dataclass(frozen=True)
class Architecture:
    """A family of models, as data.

    Paths in `stem` are relative to the base model; paths in `heads` to the whole model.
    `heads` is keyed by what follows the family's name in the class name (`Model` is the bare encoder). `same` makes
    two axes one, unless the named module exists: ELECTRA's embeddings write to the stream only where nothing projects.
    `neurons` is what the family's config calls the width of its feed-forward networks.
    """

    model_type: str
    stacks: tuple[Stack, ...]
    stem: tuple[Row, ...]
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
    layer: str | None

    @property
    def inner(self) -> bool:
        """Whether a dimension lies on an axis inside a layer (qk, vo, ffn): what density counts."""
        return any(axis is not None and axis != "hidden" for axis in self.axes)


@dataclass(frozen=True)
class Sublayer:
    """An attention or a feed-forward network of a layer: its gate, and the inner axes behind the gate."""

    gate: str
    layer: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """An architecture bound to a model: rows with full module paths and full axis names, and the size of each axis.

    Attributes:
        shapes: path of each Linear -> `(out, into)`.
        layers: their names, `0` or `encoder.0`; each has the axis `ffn` and the gate `mlp`.
        stacks: how many stacks of layers there are.
        heads: of each attention.
        attentions: stack by stack; of several in a layer all of one kind before the next (DSP's order of heads:
            the encoder's, cross-attention's, the decoder's own).
        sublayers: layer by layer.
        embeddings: path of the word embeddings.
    """

    model_type: str
    rows: tuple[Row, ...]
    parameters: tuple[Parameter, ...]
    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, int]]
    layers: tuple[str, ...]
    stacks: int
    heads: int
    attentions: tuple[Attention, ...]
    sublayers: tuple[Sublayer, ...]
    embeddings: str

    @property
    def head_dim(self) -> int:
        """Dimensions of one head before pruning; the softmax scale stays that of a head of this size."""
        return self.sizes[f"{self.attentions[0].block}.vo"] // self.heads

    @property
    def blocks(self) -> tuple[str, ...]:
        """What the names of axes begin with, in reading order: a layer, then its further attentions."""
        further = [attention.block for attention in self.attentions if attention.block not in self.layers]
        return tuple(
            block for layer in self.layers for block in (layer, *(b for b in further if b.startswith(f"{layer}.")))
        )

    def one_stack(self, what: str) -> None:
        """Refuse what is not made for encoder-decoders.

        Raises:
            UserError: the model has several stacks.
        """
        if self.stacks > 1:
            raise UserError(f"{what} of an encoder-decoder ({self.model_type}) is not supported: use an encoder alone")

    def writer(self, sublayer: str) -> Linear:
        """The Linear through which a sublayer (`3.attention`) writes to the residual stream."""
        return next(r for r in self.rows if isinstance(r, Linear) and r.behind == sublayer and r.out == "hidden")

    def reader(self, axis: str) -> Linear:
        """The Linear whose input lies on an inner axis (`3.vo`, `3.ffn`)."""
        return next(row for row in self.rows if isinstance(row, Linear) and row.into == axis)

    def makers(self, axis: str) -> list[Linear]:
        """The Linears whose output lies on an inner axis, in the table's order (query before key)."""
        return [row for row in self.rows if isinstance(row, Linear) and row.out == axis]


def numbered(layer: str) -> int | str:
    """What a report calls a layer: its number, where that is its name."""
    return int(layer) if layer.isdigit() else layer


def find(model: PreTrainedModel) -> Table:
    """Bind the model's architecture and check that every parameter is labelled with the size that it has.

    Raises:
        UserError: the family or the head is not supported, the model was cut already, or a parameter is not labelled.
    """
    kind = model.config.model_type
    known = ARCHITECTURES.all()
    if kind not in known:
        raise UserError(
            f"architecture {kind!r} is not supported: supported are {', '.join(known)}; "
            "convert the model to one of these, or add a file to secateur/structure/architectures"
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
    modules = dict(model.named_modules(remove_duplicate=False))
    same = _same_axes(architecture, {name.removeprefix(prefix) for name in modules})
    stacks = [(stack, _numbered(stack, prefix, modules, model)) for stack in architecture.stacks]
    placed: list[tuple[Row, str | None]] = [(_placed(row, prefix, None, same), None) for row in architecture.stem]
    for stack, layers in stacks:
        placed += [(_placed(row, start, name, same), name) for name, start in layers.items() for row in stack.rows]
    placed += [(row, None) for row in _head_rows(architecture, model)]
    own = dict(model.named_parameters())  # of a tied weight the first name alone
    placed = [(_tied(row, own), layer) for row, layer in placed if row.path in modules]
    parameters = [p for row, layer in placed for p in _parameters(row, layer, modules[row.path], own)]
    names = tuple(name for _, layers in stacks for name in layers)
    attentions = tuple(
        _called(one, number, name, start, modules)
        for stack, layers in stacks
        for one in stack.attentions
        for number, (name, start) in enumerate(layers.items())
    )
    return Table(
        model_type=architecture.model_type,
        rows=tuple(row for row, _ in placed),
        parameters=tuple(parameters),
        sizes=_sizes(parameters),
        shapes={row.path: _shape(modules[row.path]) for row, _ in placed if isinstance(row, Linear)},
        layers=names,
        stacks=len(stacks),
        heads=_heads(architecture, model),
        attentions=attentions,
        sublayers=_sublayers(names, attentions),
        embeddings=next(row.path for row, _ in placed if isinstance(row, Embedding)),
    )


def _numbered(stack: Stack, prefix: str, modules: Mapping[str, nn.Module], model: PreTrainedModel) -> dict[str, str]:
    """The layers of a stack: name -> what stands before the paths in it."""
    layers = modules.get(prefix + stack.path)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"{type(model).__name__} has no layers at {prefix + stack.path}: load the model with a class that has the "
            "whole of it"
        )
    names = [f"{stack.name}.{number}" if stack.name else str(number) for number in range(len(layers))]
    return {name: f"{prefix}{stack.path}.{number}." for number, name in enumerate(names)}


def _called(one: Attention, number: int, layer: str, start: str, modules: Mapping[str, nn.Module]) -> Attention:
    """An attention of a stack as it lies in one layer."""
    path, block = start + one.path, ".".join(filter(None, (layer, one.block)))
    bias = one.bias if f"{path}.{one.bias}" in modules else None
    return replace(one, path=path, block=block, layer=number, bias=bias)


def _heads(architecture: Architecture, model: PreTrainedModel) -> int:
    """The number of heads of an attention, which must be one for all."""
    counts = {stack.heads: int(getattr(model.config, stack.heads)) for stack in architecture.stacks}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"attentions with different numbers of heads ({', '.join(f'{n}: {k}' for n, k in counts.items())}) are not "
            "supported: use a model in which all have as many"
        )
    return next(iter(counts.values()))


def _sublayers(layers: tuple[str, ...], attentions: tuple[Attention, ...]) -> tuple[Sublayer, ...]:
    found = []
    for layer in layers:
        blocks = sorted(a.block for a in attentions if f"{a.block}.".startswith(f"{layer}."))
        found += [Sublayer(f"{block}.attention", layer, (f"{block}.qk", f"{block}.vo")) for block in blocks]
        found.append(Sublayer(f"{layer}.mlp", layer, (f"{layer}.ffn",)))
    return tuple(found)


def _shape(module: nn.Module) -> tuple[int, int]:
    out, into = module.get_parameter("weight").shape
    return out, into


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


def _placed(row: Row, prefix: str, layer: str | None, same: Mapping[Axis, Axis]) -> Row:
    """The row with its full path, and its axes with the layer's name."""

    def full(axis: Axis) -> Axis:
        axis = same.get(axis, axis)
        return axis if axis is None or axis == "hidden" or layer is None else f"{layer}.{axis}"

    if isinstance(row, Linear):
        row = replace(row, out=full(row.out), into=full(row.into), adds=row.adds and prefix + row.adds)
    else:
        row = replace(row, axis=full(row.axis))
    return replace(row, path=prefix + row.path, behind=full(row.behind))


def _tied(row: Row, own: Mapping[str, nn.Parameter]) -> Row:
    return replace(row, tied=True) if isinstance(row, Linear) and f"{row.path}.weight" not in own else row


def _parameters(row: Row, layer: str | None, module: nn.Module, own: Mapping[str, nn.Parameter]) -> list[Parameter]:
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return [
        Parameter(f"{row.path}.{name}", axes, shapes[name], row, layer)
        for name, axes in row.dims(module).items()
        if name in shapes and f"{row.path}.{name}" in own
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
            f"label them in secateur/structure/architectures/{table.model_type}.py"
        )
