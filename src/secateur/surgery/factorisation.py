"""Word embeddings as a product of two smaller matrices."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.binding import bind
from secateur.structure.plan import check_rank
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.word_embeddings import factors_structure, table_paths
from secateur.system.errors import UserError

AUTO = "auto"
"""In place of a rank that `rank_for` chooses."""
ENERGY = 0.9
"""The part of the squared values of a table that a chosen rank keeps.

Without any training, a MiniLM-L6 and an MPNet-base lose 1 point of correlation on STS-B at 0.9 and 2 at 0.8, and their
tables get a third and a half smaller. Most of the rest is in directions of equal size: a lower rank is to be asked for.
"""


def chosen_rank(weight: Tensor) -> int | None:
    """The smallest rank at which the best approximation of a table keeps `ENERGY`, the sum of its squared values.

    None if its factors would not be smaller than the table.
    """
    rows, size = weight.shape
    exact = weight.detach().double()
    energy = torch.linalg.eigvalsh(exact.T @ exact).flip(0).clamp(min=0).cumsum(0)  # squared singular values
    rank = int((energy < ENERGY * energy[-1]).sum()) + 1
    return rank if rank * (rows + size) < rows * size else None


def rank_for(asked: int | str | None, model: PreTrainedModel) -> int | None:
    """The rank that the word embeddings of a dense model are factorised to, None if they stay whole.

    Args:
        asked: the rank, None, or `AUTO`: the largest of the `chosen_rank` of its tables.

    Raises:
        UserError: a rank is to be chosen for a model without word embeddings.
    """
    if not isinstance(asked, str):
        return asked
    table = bind(model)
    table.own_words("an embedding rank")
    weights = [model.get_parameter(f"{path}.weight") for path in table_paths(table)]
    ranks = [rank for weight in weights if (rank := chosen_rank(weight)) is not None]
    return max(ranks) if len(ranks) == len(weights) else None


def rank_text(rank: int | None) -> str:
    """What `rank_for` chose of its own, in words."""
    if rank is None:
        return f"whole: factors with {ENERGY:g} of the squares of their values would not be smaller"
    return f"factorised to rank {rank}, which keeps {ENERGY:g} of the squares of their values"


def factorise(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """A copy whose word embeddings are a table of `rank` columns and a projection: the best approximation of that rank.

    Truncated SVD, E = U S V^T, table = U_r S_r, projection = V_r (GRAIN section 4.4; Eckart and Young, 1936). Needs
    memory for `(rows, size)`, not for `(rows, rows)`. Where an encoder, a decoder and an output layer share one table,
    they share its factors.

    Raises:
        UserError: there are no word embeddings, they are factorised already, or the rank does not make them smaller.
    """
    table = bind(model)
    table.own_words("an embedding rank")
    model = copy.deepcopy(model)
    weights = {path: stock_embedding(model, path).weight.detach() for path in table_paths(table)}
    for weight in weights.values():
        check_rank(weight.shape[0], weight.shape[1], rank)
    compact.reshape(model, factors_structure(model, table, rank))
    with torch.no_grad():
        for path, weight in weights.items():
            left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
            model.get_parameter(f"{path}.table.weight").copy_(left[:, :rank] * values[:rank])
            model.get_parameter(f"{path}.projection.weight").copy_(right[:rank].T)
    return model


def embedding_rank(space: UnitSpace) -> int | None:
    """The rank that the model's word embeddings are factorised to, None if they are not."""
    word = space.model.get_submodule(space.table.embeddings)
    return word.projection.in_features if isinstance(word, compact.FactorisedEmbedding) else None


def stock_embedding(model: PreTrainedModel, path: str) -> nn.Embedding:
    """The embedding at a path.

    Raises:
        UserError: it is factorised already.
    """
    module = model.get_submodule(path)
    if not isinstance(module, nn.Embedding):
        raise UserError(f"{path} is a {type(module).__name__}: expected an Embedding that is not factorised yet")
    return module
