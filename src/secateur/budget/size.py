"""The bytes of the file of a cut model, counted before it is cut, and the density at which it has a given size.

The count follows from the table of axes as the cut does (`surgery.cut_structure`): all tensors with their names and
shapes, heads padded to the widths of their buckets, word embeddings in int8 if they are stored so, and the header of a
file of safetensors. The linear layers of a sentence head, which have files of their own, count with the others. A test
compares it with the files of all families.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.budget.parameters import Ranking
from secateur.budget.ranking import longest_prefix
from secateur.budget.space import Space
from secateur.structure.architecture import VOCABULARIES, Embedding, Linear, Norm
from secateur.structure.axis_table import Parameter
from secateur.structure.binding import SENTENCE_LAYER
from secateur.structure.head_buckets import Layout
from secateur.structure.layouts import cheapest_layouts
from secateur.structure.model_parts import by_part
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.system.model_state import saved_buffers

NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
}
"""Names of types in safetensors, in the order in which a file has their tensors."""


@dataclass(frozen=True)
class Storage:
    """How the weights are stored.

    Attributes:
        dtype: of all floating point numbers.
        empty: of tensors without numbers, which keep the type of the model.
        int8_rows: whether the word embeddings are in int8, with a scale in float32 for each row.
    """

    dtype: torch.dtype = torch.float32
    empty: torch.dtype = torch.float32
    int8_rows: bool = False

    def tensor(self, *shape: int) -> StoredTensor:
        """A floating point tensor of a shape."""
        return StoredTensor(self.dtype if prod(shape) else self.empty, shape)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its type and its shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * self.dtype.itemsize


Tensors = Mapping[str, StoredTensor]
"""The tensors of a file by their names."""


def planned_tensors(space: UnitSpace, plan: Plan, storage: Storage) -> dict[str, StoredTensor]:
    """The tensors of the model that is cut by a plan; the word embeddings of the space's model may be factorised."""
    return _tensors(space, plan.read(space), plan.layouts, storage)


def planned_bytes(space: UnitSpace, plan: Plan, storage: Storage) -> int:
    """Bytes of the file of the model that is cut by a plan."""
    return file_bytes(planned_tensors(space, plan, storage))


def kept_bytes(space: UnitSpace, kept: Tensor, storage: Storage) -> int:
    """Bytes of the file of the model that keeps the units `(N,)`, with heads padded as in a plan for them."""
    reading = space.read(kept)
    return file_bytes(_tensors(space, reading, cheapest_layouts(reading), storage))


def unpadded_tensors(space: UnitSpace, kept: Tensor, storage: Storage) -> dict[str, StoredTensor]:
    """The tensors of the model that keeps the units `(N,)`, without the padding of heads of different sizes."""
    reading = space.read(kept)
    heads = [len(reading.head_sizes(number)[0]) for number in range(len(space.table.attentions))]
    return _tensors(space, reading, [Layout(tuple((head,) for head in range(count))) for count in heads], storage)


def unpadded_bytes(space: UnitSpace, kept: Tensor, storage: Storage) -> int:
    """Bytes of the file of the model that keeps the units `(N,)`, without the padding of heads."""
    return file_bytes(unpadded_tensors(space, kept, storage))


def least_bytes(space: Space, storage: Storage) -> int:
    """Bytes of the smallest file that these units can reach, with all of them removed that may be."""
    return unpadded_bytes(space, Ranking(space, torch.zeros(len(space)), space.density).first(0), storage)


def least_left_bytes(space: Space, storage: Storage) -> int:
    """Bytes of the smallest file that leaves a part of the layers: the least size with a density (`density_within`)."""
    ranking = Ranking(space, _random_scores(space), space.density)
    return unpadded_bytes(space, ranking.first(longest_prefix(ranking.share, len(ranking), 0.0) + 1), storage)


def parts(space: UnitSpace, tensors: Tensors) -> dict[str, int]:
    """Part of the model -> bytes of its tensors (`model_parts`)."""
    return by_part(space.table, {name: tensor.bytes for name, tensor in tensors.items()})


def density_within(space: Space, storage: Storage, size: int) -> float:
    """The density of a model whose units are removed at random until its file has at most `size` bytes.

    Heads are not padded, and units of different kinds are removed alike. For neurons and the dims of heads, which are
    stored one by one, any other choice has the same size at this density.
    """
    ranking = Ranking(space, _random_scores(space), lambda kept: float(unpadded_bytes(space, kept, storage)))
    return space.density(ranking.first(longest_prefix(ranking.share, len(ranking), size)))


def tensors_at(space: Space, storage: Storage, density: float) -> dict[str, StoredTensor]:
    """The tensors of a model whose units are removed at random until it has a density, without the padding of heads."""
    return unpadded_tensors(space, space.choose(_random_scores(space), density), storage)


def _random_scores(space: Space) -> Tensor:
    return torch.randperm(len(space), generator=torch.Generator().manual_seed(0)).double()


def largest_density(
    kept_at: Callable[[float], Tensor | None], fits: Callable[[Tensor], bool], most: float, step: float
) -> float | None:
    """The largest density up to `most` whose units fit, by bisection; those of a density at most `step` above do not.

    It is None if none fit.

    Args:
        kept_at: density -> the units `(N,)` that are kept; None where nothing would be left.
    """
    low, high, found = 0.0, most, False
    if (kept := kept_at(most)) is None or fits(kept):
        return None if kept is None else most
    while high - low > step:
        middle = (low + high) / 2
        kept = kept_at(middle)
        if kept is None or fits(kept):
            low, found = middle, kept is not None
        else:
            high = middle
    return low if found else None


# Tensors


def _tensors(
    space: UnitSpace, reading: Reading, layouts: Sequence[Layout], storage: Storage
) -> dict[str, StoredTensor]:
    lengths, biased = _lengths(reading, layouts), {p.row.path for p in space.table.parameters if _is_bias(p)}
    tensors: dict[str, StoredTensor] = {}
    for parts in space.table.tensors.values():
        shapes = [_shape(part, lengths, part.row.path in biased) for part in parts]
        stored = [shape for shape in shapes if shape is not None]
        if stored:
            tensors |= _stored(parts[0], (sum(shape[0] for shape in stored), *stored[0][1:]), storage)
    return tensors | {name: _buffer(tensor, storage) for name, tensor in saved_buffers(space.model).items()}


def _lengths(reading: Reading, layouts: Sequence[Layout]) -> dict[str, int]:
    """The stored length of every axis, with the padding of heads, and of every gate: 1 open, 0 removed."""
    lengths = {axis: int(alive.sum()) for axis, alive in reading.alive.items()}
    for number, (attention, layout) in enumerate(zip(reading.table.attentions, layouts, strict=True)):
        axes, of_each = (f"{attention.block}.qk", f"{attention.block}.vo"), reading.heads_of_each(number)
        if any(lengths[axis] < reading.table.sizes[axis] for axis in axes):
            for axis, sizes in zip(axes, reading.head_sizes(number), strict=True):
                buckets = [*zip(layout.buckets, layout.widths(sizes), strict=True)]
                lengths[reading.table.kv_axis(axis)] = sum(len(keys) * width for keys, width in buckets)
                lengths[axis] = sum(sum(of_each[key] for key in keys) * width for keys, width in buckets)
    return lengths


def _is_bias(parameter: Parameter) -> bool:
    return parameter.name.endswith(".bias")


def _shape(parameter: Parameter, lengths: Mapping[str, int], biased: bool) -> tuple[int, ...] | None:
    """The shape of what is stored of a parameter, None for nothing: see `surgery.cut_structure`.

    Args:
        biased: whether its module has a bias.
    """
    row = parameter.row
    shape = tuple(lengths.get(axis or "", size) for axis, size in zip(parameter.axes, parameter.shape, strict=True))
    closed = row.behind is not None and not lengths[row.behind]
    if isinstance(row, Linear):
        if (row.out == "hidden" and closed) or (not biased and 0 in shape[1:]):
            return None if _is_bias(parameter) else (0, 0)  # `compact.modules.Zero`
        return None if shape[0] == 0 else shape
    return None if isinstance(row, Norm) and closed else shape


def _stored(parameter: Parameter, shape: tuple[int, ...], storage: Storage) -> dict[str, StoredTensor]:
    """The tensors in which a parameter is stored."""
    path = parameter.name.rpartition(".")[0]
    if not (storage.int8_rows and isinstance(parameter.row, Embedding) and parameter.axes[0] in VOCABULARIES):
        return {parameter.name: storage.tensor(*shape)}
    return {
        f"{path}.rows": StoredTensor(torch.int8, shape),
        f"{path}.scale": StoredTensor(torch.float32, shape[:1]),
        f"{path}.weight": storage.tensor(shape[0], 0),
    }


def _buffer(buffer: Tensor, storage: Storage) -> StoredTensor:
    return storage.tensor(*buffer.shape) if buffer.is_floating_point() else StoredTensor(buffer.dtype, buffer.shape)


# Files


def file_bytes(tensors: Tensors) -> int:
    """Bytes of the file that has these tensors, and of those of the linear layers of a sentence head among them."""
    files: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        layer = SENTENCE_LAYER.match(name)
        prefix = layer[0] if layer else ""
        files.setdefault(prefix, {})[name.removeprefix(prefix)] = tensor
    return sum(_one_file(own) for own in files.values())


def _one_file(tensors: Tensors) -> int:
    """Bytes of a file of safetensors: a length of 8 bytes, the header, padded to a multiple of 8, and the tensors."""
    order, offset = list(NAMES), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, tensor in sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        offsets = [offset, offset := offset + tensor.bytes]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + offset
