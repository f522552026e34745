"""The activation and the prompts of a `CrossEncoder` of sentence-transformers, beside the config of its model.

From version 6 on they are in `config_sentence_transformers.json`; before it the activation was in the
`sentence_transformers` key of `config.json`, which all versions read where that file names none. Only the config is
kept with a model that is cut, so that is where both belong; prompts are written to that file again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.surgery.hub import file_of
from secateur.surgery.sentence.folder import ACTIVATIONS, ENCODER, MODULES, OVERALL, modules_of
from secateur.system.errors import UserError
from secateur.system.files import read_json

CLASSIFIER = "ForSequenceClassification"
"""How the class of the model in such a folder ends."""
OLD_KEY = "sbert_ce_default_activation_function"
"""The key of `config.json` before version 4."""
IDENTITY = "torch.nn.modules.linear.Identity"
FILE, KEY, ACTIVATION, PROMPTS = OVERALL, "sentence_transformers", "activation_fn", "prompts"
TYPE, CROSS_ENCODER = "model_type", "CrossEncoder"
"""The key of that file that names the kind of a model, and its value there."""
TASK = {"transformer_task": "sequence-classification"}
"""What the only module of such a folder is."""


def with_settings(model: PreTrainedModel, name_or_path: str | Path) -> PreTrainedModel:
    """A model whose config has the activation and the prompts of the `CrossEncoder` that it was loaded from, if any."""
    if not type(model).__name__.endswith(CLASSIFIER):
        return model
    found = settings(name_or_path)
    return _with_values(model, {name: found[name] for name in (ACTIVATION, PROMPTS) if found.get(name)})


def with_named_activation(model: PreTrainedModel, activation: str) -> PreTrainedModel:
    """The model, whose config names an activation for a `CrossEncoder` that it is loaded as."""
    return _with_values(model, {ACTIVATION: activation})


def _with_values(model: PreTrainedModel, values: dict[str, Any]) -> PreTrainedModel:
    if values:
        setattr(model.config, KEY, {**(getattr(model.config, KEY, None) or {}), **values})
    return model


def write_prompts(model: PreTrainedModel, folder: Path) -> None:
    """Write the prompts that the config of a model has to where `CrossEncoder` looks for them: beside modules."""
    values = getattr(model.config, KEY, None) or {}
    if prompts := values.get(PROMPTS):
        content = {TYPE: CROSS_ENCODER, PROMPTS: prompts, "default_prompt_name": None}
        content |= {ACTIVATION: values[ACTIVATION]} if ACTIVATION in values else {}
        files = {FILE: content, MODULES: modules_of([("Transformer", "")]), ENCODER: TASK}
        for name, one in files.items():
            (folder / name).write_text(json.dumps(one, indent=2) + "\n", encoding="utf-8")


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


def settings(name_or_path: str | Path) -> dict[str, Any]:
    """The settings of sentence-transformers beside a model; empty without any, or without a `CrossEncoder`'s."""
    path = file_of(name_or_path, FILE)
    values = {} if path is None else read_json(path)
    return values if values.get(TYPE) == CROSS_ENCODER else {}
