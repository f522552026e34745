"""A uniformly cut model as an ordinary checkpoint, which needs no code of secateur to load.

Configs have one key for the width of all feed-forward networks and one for the number of layers. In BERT and its
relatives the size of a head is the width of the residual stream over the number of heads, so heads and the residual
stream must not be pruned. Where it has a key of its own, as in Llama and its relatives, every layer may keep the same
number of keys, each shared by the same number of heads, and the stream may be narrower; heads stay whole.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.structure.architecture import Architecture
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.axis_table import AxisTable
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.surgery import compact
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
    left, sizes = _uniform(space, plan)
    config = copy.deepcopy(dense.config)
    for key in ("secateur", "auto_map"):
        vars(config).pop(key, None)
    for key, size in sizes.items():
        setattr(config, key, size)
    for key, kinds in kinds_left(space.table, left).items():
        setattr(config, key, kinds)
    model: Any = build_stock(type(dense), _checked(config))
    if (generation := getattr(dense, "generation_config", None)) is not None:
        model.generation_config = copy.deepcopy(generation)
    if (head := head_of(small)) is not None:
        attach_head(model, copy.deepcopy(head))
    cast(model, small.dtype, small.device)
    state = _renumbered(small, space, left)
    if odd := sorted(state.keys() ^ model.state_dict().keys()):
        raise _other_names(space, left, odd[0])
    model.load_state_dict(state)
    return model.train(small.training)


def _other_names(space: UnitSpace, left: list[str], odd: str) -> UserError:
    """An error that names a tensor which only one of the two models has."""
    in_a_layer = any(part.isdigit() for part in odd.split("."))
    what = f"a model whose first layer is layer {left[0]}" if in_a_layer else "this model"
    return UserError(
        f"a plain {space.table.model_type} config cannot describe {what} ({odd} is on one side only): "
        f"{'keep the first layer, or ' if in_a_layer else ''}save the compact model"
    )


def kinds_left(table: AxisTable, left: Collection[str]) -> dict[str, list[str | None]]:
    """The key of a config that names the kind of each layer's attention -> those of the layers that are left."""
    keys = dict.fromkeys(one.kinds for one in table.attentions if one.kinds)
    return {key: [one.kind for one in table.attentions if one.kinds == key and one.block in left] for key in keys}


def _checked(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config, checked as it will be when the checkpoint is loaded.

    Raises:
        UserError: transformers does not allow its sizes together.
    """
    try:
        return type(config).from_dict(config.to_dict())
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"a plain {config.model_type} config cannot describe what is kept ({reason}): keep another number of "
            "heads, or save the compact model"
        ) from error


def _uniform(space: UnitSpace, plan: Plan) -> tuple[list[str], dict[str, int]]:
    """The remaining layers, and the sizes of the stock model, by the keys of its config.

    Raises:
        UserError: these cannot describe what is kept.
    """
    table, reading = space.table, plan.read(space)
    family = ARCHITECTURES.get(table.model_type)
    left = [layer for layer, is_left in zip(table.layers, reading.layers_left().tolist(), strict=True) if is_left]
    odd = _odd(space, reading, left, plan, whole=family.head_dim is None)
    widths = sorted({int(reading.alive[f"{layer}.ffn"].sum()) for layer in left})
    if odd or len(widths) != 1 or widths == [0]:
        finer = "whole layers" if family.head_dim is None else "whole layers, heads and hidden dims"
        raise UserError(
            f"a plain {table.model_type} config cannot describe {odd or f'FFN widths {widths}'}: prune {finer} and the "
            "same number of FFN neurons in each layer (by uniform, or by a shape), or save the compact model"
        )
    sizes = {"num_hidden_layers": len(left), family.neurons: widths[0]}
    return left, sizes | ({} if family.head_dim is None else _sizes_of_heads(space, reading, left, family))


def _odd(space: UnitSpace, reading: Reading, left: list[str], plan: Plan, *, whole: bool) -> str:
    """What no config of the family can describe, in words; empty if there is nothing.

    Args:
        whole: whether all heads and hidden dims must be kept.
    """
    table, kept = space.table, {axis: int(alive.sum()) for axis, alive in reading.alive.items()}
    needed = {"hidden": table.sizes["hidden"]} if whole else {}
    for layer in left:
        for axis in (f"{layer}.qk", f"{layer}.vo"):
            heads = table.heads if whole else int(reading.heads(layer).sum())
            needed[axis] = heads * table.head_dim
        needed |= {f"{layer}.attention": 1, f"{layer}.mlp": 1}
    cut = [f"{axis} ({kept[axis]} of {size})" for axis, size in needed.items() if kept[axis] != size]
    thin = "factorised embeddings" if plan.embedding_rank else "embeddings in int8" if plan.embedding_rows else ""
    shared = {tuple(reading.heads_of_each(table.layers.index(layer))) for layer in left}
    uneven = len(shared) > 1 or len({*next(iter(shared), ())}) > 1 or shared == {()}
    return cut[0] if cut else thin or (f"heads {sorted(shared)} of the keys of its layers" if uneven else "")


def _sizes_of_heads(space: UnitSpace, reading: Reading, left: list[str], family: Architecture) -> dict[str, int]:
    """The numbers of heads and keys, the dims of a head and the width of the stream, by the keys of the config."""
    stack, shared = family.stacks[0], reading.heads_of_each(space.table.layers.index(left[0]))
    heads = {stack.heads: sum(shared), stack.kv_heads or stack.heads: len(shared)}
    dims = {str(family.head_dim): space.table.head_dim, "hidden_size": int(reading.alive["hidden"].sum())}
    return heads | dims


def _renumbered(small: PreTrainedModel, space: UnitSpace, left: list[str]) -> dict[str, Tensor]:
    """The state without the removed layers, the others numbered without gaps, tied weights under all of their names."""
    layers = {parameter.name: parameter.layer for parameter in space.table.parameters}
    first, renamed = compact.first_names(small), {}
    for name, tensor in small.state_dict().items():
        layer = layers.get(first.get(name, name))
        if layer is None:
            renamed[name] = tensor
        elif layer in left:
            renamed[name.replace(f".{layer}.", f".{left.index(layer)}.", 1)] = tensor
    return renamed
