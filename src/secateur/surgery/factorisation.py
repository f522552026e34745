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
from secateur.system.errors import UserError


def factorise(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """A copy whose word embeddings are a table of `rank` columns and a projection: the best approximation of that rank.

    Truncated SVD, E = U S V^T, table = U_r S_r, projection = V_r (GRAIN section 4.4; Eckart and Young, 1936). Needs
    memory for `(rows, size)`, not for `(rows, rows)`.

    Raises:
        UserError: the embeddings are factorised already, the rank does not make them smaller, or the model is an
            encoder-decoder.
    """
    table = bind(model)
    table.one_stack("factorising the word embeddings")
    model = copy.deepcopy(model)
    stock = stock_embedding(model, table.embeddings)
    check_rank(stock.num_embeddings, stock.embedding_dim, rank)
    factorised = compact.FactorisedEmbedding.like(stock, rank)
    with torch.no_grad():
        left, values, right = torch.linalg.svd(stock.weight.detach().double(), full_matrices=False)
        factorised.table.weight.copy_(left[:, :rank] * values[:rank])
        factorised.projection.weight.copy_(right[:rank].T)
    model.set_submodule(table.embeddings, factorised)
    return model


def embedding_rank(space: UnitSpace) -> int | None:
    """The rank that the model's word embeddings are factorised to, None if they are not."""
    word = space.model.get_submodule(space.table.embeddings)
    return word.table.embedding_dim if isinstance(word, compact.FactorisedEmbedding) else None


def stock_embedding(model: PreTrainedModel, path: str) -> nn.Embedding:
    """The embedding at a path.

    Raises:
        UserError: it is factorised already.
    """
    module = model.get_submodule(path)
    if not isinstance(module, nn.Embedding):
        raise UserError(f"{path} is a {type(module).__name__}: expected an Embedding that is not factorised yet")
    return module
