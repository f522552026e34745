"""Word embeddings as a product of two smaller matrices."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.structure.binding import bind
from secateur.structure.plan import check_rank
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.word_embeddings import factors_structure, table_paths
from secateur.system.errors import UserError


def factorise(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """A copy whose word embeddings are a table of `rank` columns and a projection: the best approximation of that rank.

    Truncated SVD, E = U S V^T, table = U_r S_r, projection = V_r (GRAIN section 4.4; Eckart and Young, 1936). Needs
    memory for `(rows, size)`, not for `(rows, rows)`. Where an encoder, a decoder and an output layer share one table,
    they share its factors.

    Raises:
        UserError: the embeddings are factorised already, or the rank does not make them smaller.
    """
    table = bind(model)
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
