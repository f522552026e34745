"""The word embeddings of a model: its tables along the vocabulary, and what else uses them."""

from __future__ import annotations

from torch import nn

from secateur.structure.architecture import Embedding
from secateur.structure.axis_table import AxisTable
from secateur.surgery import compact
from secateur.surgery.schema import Structure


def table_paths(table: AxisTable) -> tuple[str, ...]:
    """Paths of the word embeddings that have weights of their own: one, or two in Marian with separate ones."""
    own = {parameter.row.path for parameter in table.parameters}
    return tuple(row.path for row in table.rows if isinstance(row, Embedding) and row.rows and row.path in own)


def shared_paths(model: nn.Module, owners: tuple[str, ...]) -> dict[str, str]:
    """Path of each further embedding or output layer that uses one of the tables -> path of that table."""
    paths = {id(module): path for path, module in model.named_modules()}
    sharing = (compact.SharedEmbedding, compact.SharedHead)
    found = {path: paths[id(m.shared[0])] for path, m in model.named_modules() if isinstance(m, sharing)}
    for name, first in compact.first_names(model).items():
        path, owner = name.rpartition(".")[0], first.rpartition(".")[0]
        if path != owner and owner in owners:
            found[path] = owner
    return found


def factors_structure(model: nn.Module, table: AxisTable, rank: int) -> Structure:
    """The structure of a model whose word embeddings are factorised, and nothing else."""
    owners = table_paths(table)
    return Structure(factorised=dict.fromkeys(owners, rank), shared=shared_paths(model, owners))


def stored_tables(model: nn.Module, paths: tuple[str, ...]) -> dict[str, nn.Module]:
    """Path -> the module that looks rows up: the embedding itself, or the table of a factorised one."""
    found = {}
    for path in paths:
        module = model.get_submodule(path)
        factorised = isinstance(module, compact.FactorisedEmbedding)
        found[f"{path}.table" if factorised else path] = model.get_submodule(f"{path}.table") if factorised else module
    return found


def quantised_tables(model: nn.Module) -> dict[str, compact.QuantisedEmbedding]:
    """Path -> the embedding, or the table of a factorised one, for each that is stored in int8."""
    return {path: m for path, m in model.named_modules() if isinstance(m, compact.QuantisedEmbedding)}
