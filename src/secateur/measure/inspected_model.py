"""What an inspection found about a model, as data; `report/inspection_text.py` makes tables of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["kept", "bias", "gone"]
"""What is left of a sublayer: some of its units, only its output bias, or nothing (it is the identity)."""


@dataclass(frozen=True)
class Count:
    """How many are kept of a total."""

    kept: int
    total: int


@dataclass(frozen=True)
class ParameterCount(Count):
    """Parameters of a scope; `density` is kept / total."""

    density: float


@dataclass(frozen=True)
class Flops:
    """Floating point operations of the layers for one sequence of `tokens`, kept and of the dense model."""

    tokens: int
    kept: float
    total: float


@dataclass(frozen=True)
class Layer:
    """What is left of an attention and of the feed-forward network (FFN) behind it.

    Attributes:
        name: the layer's number. The second attention of a decoder layer has an entry of its own, named after its
            block, without an FFN.
        qk: QK dims kept by each head of the dense model, 0 for a removed head.
        vo: VO dims likewise. A head without VO dims is removed; one without QK dims attends uniformly.
        ffn: FFN neurons; None for a second attention.
        attention: state of the attention sublayer.
        mlp: state of the FFN sublayer; None for a second attention.
    """

    name: int | str
    qk: tuple[int, ...]
    vo: tuple[int, ...]
    ffn: Count | None
    attention: State
    mlp: State | None

    @property
    def heads(self) -> Count:
        """The attention's heads."""
        return Count(sum(size > 0 for size in self.vo), len(self.vo))


@dataclass(frozen=True)
class Saving:
    """What removing one more group would save.

    Attributes:
        group: its name, such as `3.ffn`.
        layer: the number or name of its layer.
        parameters: prunable parameters saved; `parameters_share` is their fraction of those that are kept.
        flops: operations saved; `flops_share` is their fraction of those that are done. Removed tiles inside a kept
            weight count as done: they are stored as zeros and multiplied.
    """

    group: str
    layer: int | str
    parameters: int
    parameters_share: float
    flops: float
    flops_share: float


@dataclass(frozen=True)
class PrunableUnits:
    """One kind of units that a dense model can be pruned by.

    Attributes:
        unit: the kind.
        groups: number of groups.
        units: number of units.
        parameters_each: parameters that removing one unit saves, averaged over the units.
        floor: the lowest density that this kind alone can reach.
    """

    unit: str
    groups: int
    units: int
    parameters_each: int
    floor: float


@dataclass(frozen=True)
class Inspection:
    """A dense model (everything kept, and what can be pruned) or a compact one by its plan.

    Attributes:
        architecture: the model type of its config.
        model_class: the name of its class.
        compact: whether it was cut.
        method: what chose the kept units; None for a dense model.
        asked: the density that was asked for; see `Plan.asked`.
        layers: an entry for each layer, and one for each second attention.
        hidden: dims of the residual stream.
        kinds: kind of attention -> how many layers keep one, where layers differ in it.
        head_dim: QK and VO dims of each head of the dense model.
        parameters: scope -> parameters; see `cost.SCOPES`.
        stored: numbers in the model's tensors.
        zeros: stored numbers of removed tiles.
        bytes: part of the model -> bytes of its tensors in its file, or in memory without one; see `model_parts`.
        flops: operations of the layers.
        savings: of every group but the residual stream.
        units: the kinds of units to prune a dense model by; empty for a compact one.
    """

    architecture: str
    model_class: str
    compact: bool
    method: str | None
    asked: float | None
    layers: tuple[Layer, ...]
    hidden: Count
    kinds: Mapping[str, Count]
    head_dim: int
    parameters: Mapping[str, ParameterCount]
    stored: int
    zeros: int
    bytes: Mapping[str, int]
    flops: Flops
    savings: tuple[Saving, ...]
    units: tuple[PrunableUnits, ...]

    @property
    def padding(self) -> int:
        """Stored numbers that only pad the heads of a layer to one width."""
        return self.stored - self.zeros - self.parameters["model"].kept

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        stream = {"layer": "stream", "hidden": _fraction(self.hidden)}
        return {
            "architecture": self.architecture,
            "model_class": self.model_class,
            "compact": self.compact,
            "method": self.method,
            "asked": self.asked,
            "layers": [*(_sizes(layer, self.head_dim) for layer in self.layers), stream],
            "heads": [_heads(layer) for layer in self.layers],
            "kinds": {kind: _fraction(count) for kind, count in self.kinds.items()},
            "head_dim": self.head_dim,
            "parameters": {scope: asdict(count) for scope, count in self.parameters.items()},
            "stored": self.stored,
            "zeros": self.zeros,
            "padding": self.padding,
            "bytes": dict(self.bytes),
            "flops": asdict(self.flops),
            "savings": [asdict(saving) for saving in self.savings],
            "units": [asdict(kind) for kind in self.units],
        }


def _fraction(count: Count) -> str:
    return f"{count.kept}/{count.total}"


def _sizes(layer: Layer, head_dim: int) -> dict[str, Any]:
    """The row of a layer as `Reading.summary` gives it: kept/total of each axis."""
    axes = {name: _fraction(Count(sum(dims), len(dims) * head_dim)) for name, dims in _dims(layer).items()}
    neurons = {} if layer.ffn is None else {"ffn": _fraction(layer.ffn)}
    return {"layer": layer.name, "heads": _fraction(layer.heads), **axes, **neurons}


def _heads(layer: Layer) -> dict[str, Any]:
    """The dims of each head, and the state of each sublayer."""
    dims = {name: list(sizes) for name, sizes in _dims(layer).items()}
    mlp = {} if layer.mlp is None else {"mlp": layer.mlp}
    return {"layer": layer.name, **dims, "attention": layer.attention, **mlp}


def _dims(layer: Layer) -> dict[str, tuple[int, ...]]:
    return {"qk": layer.qk, "vo": layer.vo}
