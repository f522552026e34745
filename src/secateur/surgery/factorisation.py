"""Word embeddings as a product of two smaller matrices: a low-rank approximation, weighted by the frequency of pieces.

A table's spectrum is flat, but texts use few of its rows often. With each row weighted by how often it is used on
SST-2, the logits of MiniLM-L6 are nearer at rank 128 than at 256 with all rows alike (RESULTS.md).
"""

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

Without any training, with all rows alike, a MiniLM-L6 and an MPNet-base lose 1 point of correlation on STS-B at 0.9 and
2 at 0.8, and their tables get a third and a half smaller. Most of the rest is in directions of equal size: a lower rank
is to be asked for.
"""


def chosen_rank(weight: Tensor, counts: Tensor | None = None) -> int | None:
    """The smallest rank at which the best approximation of a table keeps `ENERGY`, the sum of its squared values.

    None if its factors would not be smaller than the table.

    Args:
        counts: as of `factorise`; a row's squares count as often as the row.
    """
    rows, size = weight.shape
    energy = _spectrum(weight, counts)[0].cumsum(0)
    rank = int((energy < ENERGY * energy[-1]).sum()) + 1
    return rank if rank * (rows + size) < rows * size else None


def rank_for(asked: int | str | None, model: PreTrainedModel, counts: Tensor | None = None) -> int | None:
    """The rank that the word embeddings of a dense model are factorised to, None if they stay whole.

    Args:
        asked: the rank, None, or `AUTO`: the largest of the `chosen_rank` of its tables.
        counts: as of `factorise`.

    Raises:
        UserError: a rank is to be chosen for a model without word embeddings.
    """
    if not isinstance(asked, str):
        return asked
    table = bind(model)
    table.own_words("an embedding rank")
    weights = [model.get_parameter(f"{path}.weight") for path in table_paths(table)]
    ranks = [rank for weight in weights if (rank := chosen_rank(weight, counts)) is not None]
    return max(ranks) if len(ranks) == len(weights) else None


def rank_text(rank: int | None) -> str:
    """What `rank_for` chose of its own, in words."""
    if rank is None:
        return f"whole: factors with {ENERGY:g} of the squares of their values would not be smaller"
    return f"factorised to rank {rank}, which keeps {ENERGY:g} of the squares of their values"


def factorise(model: PreTrainedModel, rank: int, counts: Tensor | None = None) -> PreTrainedModel:
    """A copy whose word embeddings are a table of `rank` columns and a projection: the best approximation of that rank.

    Truncated SVD, E = U S V^T, table = U_r S_r = E V_r, projection = V_r (GRAIN section 4.4; Eckart and Young, 1936).
    With `counts`, V is that of the rows times sqrt(count + 1): what is least is then the squared error of a piece of
    the texts, not of a row of the table (weighting by frequency: GroupReduce, Chen et al., NeurIPS 2018; the 1 is
    ours, for pieces that the texts do not have). Where an encoder, a decoder and an output layer share one table, they
    share its factors.

    Args:
        counts: how often each piece occurs in the texts that the model is for, `(pieces,)`; rows beyond them count 0.
            None weights all rows alike.

    Raises:
        UserError: there are no word embeddings, they are factorised already, the rank does not make them smaller, or
            there are counts of more pieces than a table has rows.
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
            directions = _spectrum(weight, counts)[1][:, :rank]
            model.get_parameter(f"{path}.table.weight").copy_(weight.double() @ directions)
            model.get_parameter(f"{path}.projection.weight").copy_(directions)
    return model


def _spectrum(weight: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Squared singular values of a table's weighted rows, falling, and their right singular vectors as columns.

    They are of the `(size, size)` products of its columns, in float64: much smaller than a table.
    """
    rows = weight.detach().double()
    if counts is not None:
        if len(counts) > len(rows):
            raise UserError(f"expected counts of at most {len(rows)} pieces, which the model has, got {len(counts)}")
        more = torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
        more[: len(counts), 0] += counts.to(more)
        rows = rows * more.sqrt()
    squares, directions = torch.linalg.eigh(rows.T @ rows)
    return squares.flip(0).clamp(min=0), directions.flip(1)


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
