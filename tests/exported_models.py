"""The models of law 13: dense ones, and cut ones of irregular shapes, in float32 with dropout in their configs."""

from dataclasses import replace

import torch
from kept_pieces import every_second
from tiny_models import edge_cases, of_images, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut


def dense(which, **sizes):
    return tiny(*which, dtype=torch.float32, dropout=0.1, **sizes)


def irregular(which, **sizes):
    """Heads of different sizes, a narrower residual stream, word embeddings of some pieces, factorised and in int8.

    A model of images has no word embeddings.
    """
    model = dense(which, **sizes)
    space = Space(model, "ffn", "qk", "vo", "hidden")
    thin = {"embedding_rank": 5, "embedding_rows": "int8"}
    thin = {} if of_images(model) else thin | {"vocabulary": every_second(model)}
    return cut(model, Plan.of(space, random_masks(space, soft=True), **thin))


def edges(which):
    """Four layers with every way in which units are dead, and word embeddings in int8.

    No head, no neuron, no attention, no FFN, heads without QK.
    """
    kind, _, shape = which
    model, plan, _ = edge_cases(kind, shape, soft=True, dtype=torch.float32, dropout=0.1)
    return cut(model, plan if of_images(model) else replace(plan, embedding_rows="int8"))
