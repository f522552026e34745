"""The activation of a `CrossEncoder` of sentence-transformers, which its folder has beside the config of the model.

From version 6 on it is in `config_sentence_transformers.json`, before it was in the `sentence_transformers` key of
`config.json`, which all versions read. Only the config is kept with a model that is cut, so that is where it belongs.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from secateur.surgery.hub import file_of
from secateur.system.files import read_json

CLASSIFIER = "ForSequenceClassification"
"""How the class of the model in such a folder ends."""
FILE, KEY, ACTIVATION = "config_sentence_transformers.json", "sentence_transformers", "activation_fn"


def with_activation(model: PreTrainedModel, name_or_path: str | Path) -> PreTrainedModel:
    """A model whose config names the activation of the `CrossEncoder` that it was loaded from, if it was from one."""
    if not type(model).__name__.endswith(CLASSIFIER):
        return model
    own, activation = getattr(model.config, KEY, None) or {}, settings(name_or_path).get(ACTIVATION)
    if activation and ACTIVATION not in own:
        setattr(model.config, KEY, {**own, ACTIVATION: activation})
    return model


def settings(name_or_path: str | Path) -> dict[str, str]:
    """The settings of sentence-transformers beside a model; empty without any, or without a `CrossEncoder`'s."""
    path = file_of(name_or_path, FILE)
    values = {} if path is None else read_json(path)
    return values if values.get("model_type") == "CrossEncoder" else {}
