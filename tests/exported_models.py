"""The models of law 13: dense ones, and cut ones of irregular shapes, in float32 with dropout in their configs."""

import torch
from kept_pieces import every_second
from tiny_models import edge_cases, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut


def dense(which):
    return tiny(*which, dtype=torch.float32, dropout=0.1)


def irregular(which):
    """Heads of different sizes, a narrower residual stream, factorised embeddings of some pieces."""
    model = dense(which)
    space = Space(model, "ffn", "qk", "vo", "hidden")
    return cut(model, Plan.of(space, random_masks(space, soft=True), embedding_rank=5, vocabulary=every_second(model)))


def edges(which):
    """Four layers with every way in which units are dead.

    No head, no neuron, no attention, no FFN, heads without QK.
    """
    kind, _, shape = which
    return cut(*edge_cases(kind, shape, soft=True, dtype=torch.float32, dropout=0.1)[:2])
