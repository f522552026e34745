"""The activation of a `CrossEncoder` of sentence-transformers, which its folder has beside the config of the model.

From version 6 on it is in `config_sentence_transformers.json`, before it was in the `sentence_transformers` key of
`config.json`, which all versions read where that file names none. Only the config is kept with a model that is cut, so
that is where it belongs.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.surgery.hub import file_of
from secateur.surgery.sentence.folder import ACTIVATIONS
from secateur.system.errors import UserError
from secateur.system.files import read_json

CLASSIFIER = "ForSequenceClassification"
"""How the class of the model in such a folder ends."""
OLD_KEY = "sbert_ce_default_activation_function"
"""The key of `config.json` before version 4."""
IDENTITY = "torch.nn.modules.linear.Identity"
FILE, KEY, ACTIVATION = "config_sentence_transformers.json", "sentence_transformers", "activation_fn"


def with_activation(model: PreTrainedModel, name_or_path: str | Path) -> PreTrainedModel:
    """A model whose config names the activation of the `CrossEncoder` that it was loaded from, if it was from one."""
    if not type(model).__name__.endswith(CLASSIFIER):
        return model
    named = settings(name_or_path).get(ACTIVATION)
    return with_named_activation(model, named) if named else model


def with_named_activation(model: PreTrainedModel, activation: str) -> PreTrainedModel:
    """The model, whose config names an activation for a `CrossEncoder` that it is loaded as."""
    setattr(model.config, KEY, {**(getattr(model.config, KEY, None) or {}), ACTIVATION: activation})
    return model


def named_activation(config: PreTrainedConfig) -> nn.Module | None:
    """What a `CrossEncoder` puts after the outputs by the config of a model; None where it names nothing.

    Raises:
        UserError: it names something else than an activation that is known.
    """
    name = (getattr(config, KEY, None) or {}).get(ACTIVATION) or getattr(config, OLD_KEY, None)
    if name is None:
        return None
    known = {kind.__name__: kind for kind in ACTIVATIONS.values()}
    module, _, last = str(name).rpartition(".")
    if not module.startswith("torch.nn") or last not in known:
        raise UserError(f"the model names the activation {name!r}: expected one of torch.nn, {', '.join(known)}")
    return known[last]()


def settings(name_or_path: str | Path) -> dict[str, str]:
    """The settings of sentence-transformers beside a model; empty without any, or without a `CrossEncoder`'s."""
    path = file_of(name_or_path, FILE)
    values = {} if path is None else read_json(path)
    return values if values.get("model_type") == "CrossEncoder" else {}
