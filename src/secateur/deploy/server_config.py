"""`config.json` of a model that is served as a file: stock keys that are true of it, and no code.

Servers read the kind of model, its labels, its width, its layers and its positions from the config, and the network
from the file. A cut model may have no single value for a key, such as the neurons of layers that differ: the key is
left out, because a wrong one misleads.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.compact import Pruned
from secateur.surgery.stock import kinds_left
from secateur.surgery.uncut import planned_space
from secateur.system.errors import as_user_error

OWN = ("secateur", "auto_map", "_name_or_path")
"""Keys that a server has no use for: how a cut model differs, which code builds it, and where it was opened."""
LABELS = ("id2label", "label2id", "problem_type")


def server_config(model: PreTrainedModel) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of `config.json`, and the keys that have no single true value in this model and are left out.

    Sizes are under the family's own keys and under `hidden_size`, `num_hidden_layers` and `num_attention_heads`, which
    text-embeddings-inference needs, whatever the family. Keys without a value are left out: its reader refuses `null`.

    Raises:
        UserError: transformers does not accept these values together.
    """
    values = json.loads(model.config.to_json_string(use_diff=False))
    sizes, kinds = _kept_sizes(model) if isinstance(model, Pruned) else (_stock_sizes(model), {})
    classifies = type(model).__name__.endswith("Classification")
    values = {name: value for name, value in values.items() if name not in OWN and (classifies or name not in LABELS)}
    values |= {"architectures": [_stock_name(model)], "dtype": "float32"}
    if classifies:
        values["label2id"] = {label: int(number) for number, label in values["id2label"].items()}
    values |= kinds
    for name, size in sizes.items():
        values |= {name: size, model.config.attribute_map.get(name, name): size}
    unstated = tuple(name for name, size in sizes.items() if size is None)
    stated = {name: value for name, value in values.items() if value is not None}
    advice = "export a file, as model.onnx, which has no config"
    with as_user_error("transformers does not read the config of this model", advice):
        AutoConfig.for_model(**stated)
    return stated, unstated


def _stock_name(model: PreTrainedModel) -> str:
    """The name of the class in transformers; that of a cut model is not known there."""
    return (model.stock if isinstance(model, Pruned) else type(model)).__name__


def _stock_sizes(model: PreTrainedModel) -> dict[str, int | None]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    return {name: getattr(model.config, name) for name in names}


def _kept_sizes(model: PreTrainedModel) -> tuple[dict[str, int | None], dict[str, list[str | None]]]:
    """The sizes that are left of a cut model, None for one that differs in its layers; and the kinds of its layers."""
    space, plan = planned_space(model)
    reading = plan.read(space)
    left = [layer for layer, is_left in zip(space.table.layers, reading.layers_left().tolist(), strict=True) if is_left]
    hidden = int(reading.alive["hidden"].sum())
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": len(left),
        "num_attention_heads": _single({int(reading.heads(layer).sum()) for layer in left}),
        ARCHITECTURES.get(space.table.model_type).neurons: _single(
            {int(reading.alive[f"{layer}.ffn"].sum()) for layer in left}
        ),
    }
    if getattr(model.config, "embedding_size", None) == model.config.hidden_size:
        sizes["embedding_size"] = hidden  # another one is a width of their own, which is not pruned
    return sizes, kinds_left(space.table, left)


def _single(sizes: set[int]) -> int | None:
    return sizes.pop() if len(sizes) == 1 else None
