"""A uniform cut as an ordinary checkpoint: where a family's config can say the shape, no code of ours is needed.

The configs of BERT and its relatives know one width of the feed-forward networks and one number of layers. The size of
a head is the stream's width over the number of heads, so heads and stream must be whole; whole layers may be gone.
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
from secateur.surgery.uncut import uncut
from secateur.system.errors import UserError


@torch.no_grad()
def plain(small: PreTrainedModel) -> PreTrainedModel:
    """The stock model that computes what `small` computes; save it with `save_pretrained`.

    Raises:
        UserError: `small` was not cut, or its shape is not one that the family's config can say.
    """
    dense, plan = uncut(small)
    space = plan.space(dense)
    space.table.one_stack("a plain checkpoint")
    left, width = _uniform(space, plan)
    config = copy.deepcopy(dense.config)
    for ours in ("secateur", "auto_map"):
        delattr(config, ours)
    config.num_hidden_layers = len(left)
    setattr(config, ARCHITECTURES.get(space.table.model_type).neurons, width)
    kind: Any = type(dense)
    model = kind(config).to(small.device, small.dtype)
    model.load_state_dict(_renumbered(small.state_dict(), space, left))
    return model.train(small.training)


def _uniform(space: UnitSpace, plan: Plan) -> tuple[list[str], int]:
    """The layers that are left, whole but for their neurons, and the number of neurons of each."""
    table, reading = space.table, plan.read(space)
    kept = {axis: int(alive.sum()) for axis, alive in reading.alive.items()}
    left = [layer for layer, is_left in zip(table.layers, reading.layers_left().tolist(), strict=True) if is_left]
    whole = {"hidden": table.sizes["hidden"]}
    for layer in left:
        whole |= {f"{layer}.{axis}": table.sizes[f"{layer}.{axis}"] for axis in ("qk", "vo")}
        whole |= {f"{layer}.attention": 1, f"{layer}.mlp": 1}
    cut = [f"{axis} ({kept[axis]} of {size})" for axis, size in whole.items() if kept[axis] != size]
    widths = sorted({kept[f"{layer}.ffn"] for layer in left})
    if cut or len(widths) != 1 or plan.embedding_rank or widths == [0]:
        odd = cut[0] if cut else f"FFN widths {widths}" if not plan.embedding_rank else "factorised embeddings"
        raise UserError(
            f"a plain {table.model_type} config cannot say {odd}: prune whole layers and as many FFN neurons in each "
            "layer (units layer, ffn, with a shape), or save the compact model"
        )
    return left, widths[0]


def _renumbered(state: dict[str, Tensor], space: UnitSpace, left: list[str]) -> dict[str, Tensor]:
    """The state without the layers that are gone, the others numbered anew."""
    layers = {parameter.name: parameter.layer for parameter in space.table.parameters}
    renamed = {}
    for name, tensor in state.items():
        layer = layers.get(name)
        if layer is None and name in layers:
            renamed[name] = tensor
        elif layer in left:
            renamed[name.replace(f".{layer}.", f".{left.index(layer)}.", 1)] = tensor
    return renamed
