"""Cut a plan out of a model: fold the masks into the weights, and keep the planned indices of every axis."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
from secateur.surgery.cut_structure import structure_of
from secateur.surgery.factorisation import embedding_rank, factorise
from secateur.surgery.folding import fold
from secateur.surgery.int8_rows import fill
from secateur.surgery.kept_indices import kept_indices, select_parts
from secateur.surgery.masking import ATTACHED
from secateur.surgery.optimizer_state import ORDERS, Moments
from secateur.surgery.schema import Structure
from secateur.surgery.sentence.attach import head_of, replace_head
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.surgery.word_embeddings import quantised_tables
from secateur.system.compat import attention_of
from secateur.system.compat.borrowed_model import unwrap_forward
from secateur.system.errors import UserError
from secateur.system.moved import make_callable


@torch.no_grad()
def cut(model: PreTrainedModel, plan: Plan, counts: Tensor | None = None) -> PreTrainedModel:
    """A new, smaller, ordinary model: `cut(m, p)(x) == masked(m, p)(x)` up to float noise. `model` is not changed.

    A model with all pieces of the plan's vocabulary loses the others first (`vocabulary.rows.cut_rows`).

    Args:
        counts: how often each piece that is kept occurs in texts, by which the word embeddings are weighted where the
            plan factorises them (`factorise`); by default all are alike.

    Raises:
        UserError: the plan does not fit the model, or names another rank than its embeddings are factorised to already,
            or masks are still attached.
    """
    if getattr(model, ATTACHED, None) is not None:
        raise UserError("masks are attached to the model: detach them before cutting")
    model, space = _factorised(in_vocabulary(model, plan), plan, counts)
    plan = replace(plan, embedding_rank=embedding_rank(space))  # plan.json records the rank of an earlier factorisation
    reading, sites = plan.read(space), space.at_sites(plan.masks.double())
    kept = kept_indices(reading, plan)
    small = _reshaped_copy(model, structure_of(space, plan, reading, kept))
    if (head := head_of(small)) is not None and "hidden" in kept:
        replace_head(small, head.of_width(len(kept["hidden"])))
    small.plan = plan.to_dict(space)
    state = model.state_dict()

    def reduced(name: str) -> Tensor:
        parts = space.table.tensors[name]
        return select_parts(parts, (fold(one, one.of(state[name]), space, plan.masks, sites) for one in parts), kept)

    for name, parameter in small.named_parameters():
        parameter.copy_(reduced(name))
    for path, embedding in quantised_tables(small).items():
        fill(embedding, reduced(f"{path}.weight"))
    return small.train(model.training)


@torch.no_grad()
def cut_moments(model: PreTrainedModel, plan: Plan, moments: Moments) -> Moments:
    """The optimizer state of a model's parameters, reduced to the parameters of its `cut`.

    Where a mask m is folded into a weight w, the gradient with respect to m w is the gradient with respect to w
    divided by m.
    """
    space = plan.space(model)
    kept, sites = kept_indices(plan.read(space), plan), space.at_sites(plan.masks.double())
    if (pieces := plan.pieces_left_to_cut(model)) is not None:
        kept["vocabulary"] = torch.tensor(pieces.kept)
    reduced: Moments = {}
    for name, parts in space.table.tensors.items():
        for key, value in moments.get(name, {}).items():
            if key in ORDERS:
                values = [part.of(value) for part in parts]
                ones = [torch.ones_like(own) for own in values]
                folded = [fold(part, own, space, plan.masks, sites) for part, own in zip(parts, ones, strict=True)]
                factor = select_parts(parts, folded, kept)
                value = torch.where(factor > 0, select_parts(parts, values, kept) / factor ** ORDERS[key], 0.0)
            reduced.setdefault(name, {})[key] = value
    return reduced


def in_vocabulary(model: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """The model with the pieces of the plan's vocabulary alone, a copy if they are cut here."""
    pieces = plan.pieces_left_to_cut(model)
    return model if pieces is None else cut_rows(model, pieces)


def _factorised(model: PreTrainedModel, plan: Plan, counts: Tensor | None) -> tuple[PreTrainedModel, UnitSpace]:
    """The model with word embeddings of the plan's rank, a copy if they are factorised here, and its space.

    Raises:
        UserError: the plan does not fit the model, or its embeddings have another rank already.
    """
    space = plan.space(model)
    rank = embedding_rank(space)
    if rank and plan.embedding_rank not in (None, rank):
        raise UserError(
            f"the plan factorises the word embeddings to rank {plan.embedding_rank}, and the model's are factorised to "
            f"rank {rank} already: plan for that rank, or cut the model that was not factorised"
        )
    if plan.embedding_rank and not rank:
        model = factorise(model, plan.embedding_rank, counts)
        space = plan.space(model)
    return model, space


def _reshaped_copy(model: PreTrainedModel, structure: Structure) -> compact.Pruned:
    """A copy of the model with the structure's shapes, its parameters not filled."""
    kind = compact.pruned(type(model))
    small: Any = copy.deepcopy(model)  # Any, because it changes its class
    unwrap_forward(small)
    small.__class__ = kind
    small.config.secateur = structure.to_dict()
    small.config.architectures = [kind.__name__]
    small.config.auto_map = compact.auto_map(kind.stock, small.config)
    small.config.update(ARCHITECTURES.get(small.config.model_type).cut_config)
    if getattr(small, "pooler", model) is None:
        setattr(small.config, compact.POOLING, False)
    small.set_attn_implementation(attention_of(small.config))  # that of the model, if its masks are for SDPA
    _construct_once(kind, small.config)
    compact.reshape(small, structure)
    return small


def _construct_once(kind: type[compact.Pruned], config: Any) -> None:
    """Construct a model of a class, unless it was done: transformers then learns what the class records as outputs."""
    if kind not in _CONSTRUCTED:
        with torch.device("meta"):
            kind(config)
        _CONSTRUCTED.add(kind)


_CONSTRUCTED: set[type[compact.Pruned]] = set()
"""Classes of compact models that were constructed in this process."""


# In 0.1 `from secateur.surgery import cut` gave the function.
make_callable(__name__, f"{__name__}:cut", moved=("secateur.surgery.cut", "secateur.cut"))
