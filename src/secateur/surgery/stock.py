"""A uniformly cut model as an ordinary checkpoint, which needs no code of secateur to load.

The configs of BERT and its relatives have one key for the width of all feed-forward networks and one for the number of
layers. The size of a head is the width of the residual stream over the number of heads, so heads and the residual
stream must not be pruned; whole layers may be removed.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.uncut import build_stock, uncut
from secateur.system.casting import cast
from secateur.system.errors import UserError


@torch.no_grad()
def plain(small: PreTrainedModel) -> PreTrainedModel:
    """The stock model that computes the same as `small`; save it with `save_pretrained`.

    Raises:
        UserError: `small` was not cut, or the family's config cannot describe its shape.
    """
    dense, plan = uncut(small)
    space = plan.space(dense)
    space.table.one_stack("a plain checkpoint")
    left, width = _uniform(space, plan)
    config = copy.deepcopy(dense.config)
    for key in ("secateur", "auto_map"):
        vars(config).pop(key, None)
    config.num_hidden_layers = len(left)
    setattr(config, ARCHITECTURES.get(space.table.model_type).neurons, width)
    attentions = space.table.attentions
    for key in {one.kinds for one in attentions if one.kinds}:
        setattr(config, key, [one.kind for one in attentions if one.kinds == key and one.block in left])
    model: Any = build_stock(type(dense), config)
    if (head := head_of(small)) is not None:
        attach_head(model, copy.deepcopy(head))
    cast(model, small.dtype, small.device)
    state = _renumbered(small.state_dict(), space, left)
    if odd := sorted(state.keys() ^ model.state_dict().keys()):
        raise UserError(
            f"a plain {space.table.model_type} config cannot describe a model whose first layer is layer {left[0]} "
            f"({odd[0]} is on one side only): keep the first layer, or save the compact model"
        )
    model.load_state_dict(state)
    return model.train(small.training)


def _uniform(space: UnitSpace, plan: Plan) -> tuple[list[str], int]:
    """The remaining layers, of which only neurons may be pruned, and the number of neurons of each."""
    table, reading = space.table, plan.read(space)
    kept = {axis: int(alive.sum()) for axis, alive in reading.alive.items()}
    left = [layer for layer, is_left in zip(table.layers, reading.layers_left().tolist(), strict=True) if is_left]
    full = {"hidden": table.sizes["hidden"]}
    for layer in left:
        full |= {f"{layer}.{axis}": table.sizes[f"{layer}.{axis}"] for axis in ("qk", "vo")}
        full |= {f"{layer}.attention": 1, f"{layer}.mlp": 1}
    cut = [f"{axis} ({kept[axis]} of {size})" for axis, size in full.items() if kept[axis] != size]
    widths = sorted({kept[f"{layer}.ffn"] for layer in left})
    thin = "factorised embeddings" if plan.embedding_rank else "embeddings in int8" if plan.embedding_rows else ""
    if cut or len(widths) != 1 or thin or widths == [0]:
        odd = cut[0] if cut else thin or f"FFN widths {widths}"
        raise UserError(
            f"a plain {table.model_type} config cannot describe {odd}: prune whole layers and the same number of FFN "
            "neurons in each layer (units layer, ffn, with a shape), or save the compact model"
        )
    return left, widths[0]


def _renumbered(state: dict[str, Tensor], space: UnitSpace, left: list[str]) -> dict[str, Tensor]:
    """The state without the removed layers, the others numbered without gaps."""
    layers = {parameter.name: parameter.layer for parameter in space.table.parameters}
    renamed = {}
    for name, tensor in state.items():
        layer = layers.get(name)
        if layer is None and name in layers:
            renamed[name] = tensor
        elif layer in left:
            renamed[name.replace(f".{layer}.", f".{left.index(layer)}.", 1)] = tensor
    return renamed
