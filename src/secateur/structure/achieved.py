"""The densities that a plan achieves, relative to a model with all its pieces and whole word embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from torch import Tensor

from secateur.structure import cost
from secateur.structure.architecture import VOCABULARIES, Embedding
from secateur.structure.axis_table import AxisTable
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.structure.vocabulary import Vocabulary


def densities(
    space: UnitSpace, reading: Reading, kept: Tensor, rank: int | None, vocabulary: Vocabulary | None
) -> dict[str, float]:
    """Scope -> density of what a reading keeps, with word embeddings of that rank and the pieces of a vocabulary."""
    achieved = {scope: reading.density(scope) for scope in ("prunable", "layers")}
    achieved["model"] = _density_of_model(reading, rank, vocabulary)
    if space.tiled:
        achieved["filled"] = space.density(space.filled(kept))
    return achieved


def _density_of_model(reading: Reading, rank: int | None, vocabulary: Vocabulary | None) -> float:
    """Density of the whole model before its vocabulary is cut and its word embeddings are factorised."""
    table, density = reading.table, reading.density("model")
    total, rows = cost.total(table, "model"), table.vocabularies.get(VOCABULARIES[0], 0)
    after = rows if vocabulary is None else len(vocabulary)
    if after != rows:
        of_pieces = [p for p in table.parameters if VOCABULARIES[0] in p.axes]
        density -= (rows - after) * sum(float(cost.kept_entries(p, reading.lengths)) for p in of_pieces) / rows / total
    if rank is not None:
        density -= _saved_by_factors(reading, rank, after) / total
    return density * (total / total_before(table, vocabulary))


def total_before(table: AxisTable, vocabulary: Vocabulary | None) -> int:
    """Parameters of the whole model before its vocabulary was cut and its word embeddings were factorised."""
    others = [p for p in table.parameters if not (isinstance(p.row, Embedding) and p.row.rows)]
    entries = [(p.axes, prod(p.shape)) for p in others]
    entries += [((pieces,), rows * size) for pieces, rows, size in word_tables(table)]
    total = sum(count for _, count in entries)
    if vocabulary is None:
        return total
    rows = table.vocabularies[VOCABULARIES[0]]
    return total + (vocabulary.size - rows) * sum(count for axes, count in entries if VOCABULARIES[0] in axes) // rows


def _saved_by_factors(reading: Reading, rank: int, pieces: int) -> int:
    """Parameters that word embeddings of so many pieces have more than their factors; 0 if they are factorised."""
    saved = 0
    for word in reading.table.parameters:
        if isinstance(word.row, Embedding) and word.row.rows and word.name == f"{word.row.path}.weight":
            rows = pieces if word.row.rows == VOCABULARIES[0] else word.shape[0]
            width = int(reading.lengths[word.axes[1]]) if word.axes[1] else word.shape[1]
            saved += rows * width - rank * (rows + width)
    return saved


def word_tables(table: AxisTable) -> Iterator[tuple[str, int, int]]:
    """Axis of the rows, rows and size of each table of word embeddings with weights of its own, factorised or not."""
    shapes = {parameter.name: parameter.shape for parameter in table.parameters}
    for row in table.rows:
        if isinstance(row, Embedding) and row.rows:
            if (whole := shapes.get(f"{row.path}.weight")) is not None:
                yield row.rows, whole[0], whole[1]
            elif (factor := shapes.get(f"{row.path}.table.weight")) is not None:
                yield row.rows, factor[0], shapes[f"{row.path}.projection.weight"][0]
