"""Three parts of a model, by the table of its axes: where its weights are.

`embeddings` are the word embeddings and whatever else stands outside the layers and writes to the residual stream,
`layers` the layers, and `head` the modules outside layers that read the stream, such as a pooler and a classifier, and
the norms of what these make, which lie on no axis. An
output layer that shares the word embeddings is stored once, under `embeddings`.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.structure.architecture import Linear, Norm
from secateur.structure.axis_table import AxisTable, Parameter

PARTS = EMBEDDINGS, LAYERS, HEAD = "embeddings", "layers", "head"


def by_part(table: AxisTable, sizes: Mapping[str, int]) -> dict[str, int]:
    """Part -> the sum of the sizes of its tensors.

    Args:
        sizes: name of a tensor -> its size. A tensor of a module that replaces a stock one, or of its children, belongs
            to the part of that module; one that belongs to no module of the table, such as a buffer of the whole model,
            belongs to the head.
    """
    modules = {parameter.row.path: part_of(parameter) for parameter in table.parameters}
    totals = dict.fromkeys(PARTS, 0)
    for name, size in sizes.items():
        totals[_part_of_tensor(name, modules)] += size
    return totals


def part_of(parameter: Parameter) -> str:
    """The part that a parameter belongs to."""
    if parameter.layer is not None:
        return LAYERS
    row = parameter.row
    reads = row.out != "hidden" if isinstance(row, Linear) else isinstance(row, Norm) and row.axis is None
    return HEAD if reads else EMBEDDINGS


def _part_of_tensor(name: str, modules: Mapping[str, str]) -> str:
    """The part of the innermost module of the table that holds the tensor."""
    path = name
    while path := path.rpartition(".")[0]:
        if path in modules:
            return modules[path]
    return HEAD
