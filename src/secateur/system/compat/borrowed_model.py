"""What Trainer and accelerate change of a model that is no result of training, and how it is undone.

Trainer turns `use_cache` off and sets the special tokens of the configs to those of the tokenizer, which would change
the positions of RoBERTa once the model is loaded again. The model sets `problem_type` by the labels of its first batch,
and pipelines choose a sigmoid or none by it. Accelerate replaces the forward by one under autocast and marks
the model as prepared, so that the next trainer would train it without autocast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

SETTINGS = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "problem_type")
"""The keys of a config, and of a generation config, that change when a model is trained or evaluated."""
MULTI_LABEL = "multi_label_classification"
"""The `problem_type` without which pipelines would read the sigmoids of several labels as one distribution."""

Settings = Sequence[Mapping[str, Any]]
"""The values of those keys that exist, in the config and in the generation config."""


def settings_of(model: PreTrainedModel) -> Settings:
    """The present values of a model's `SETTINGS`."""
    return [{name: own[name] for name in SETTINGS if name in own} for own in _configs(model)]


def set_settings(model: PreTrainedModel, settings: Settings) -> None:
    """Set a model's `SETTINGS` to earlier values, but for a `problem_type` of several labels, which training found."""
    for own, values in zip(_configs(model), settings, strict=True):
        found = {"problem_type": MULTI_LABEL} if own.get("problem_type") == MULTI_LABEL else {}
        for name in SETTINGS:
            own.pop(name, None)
        own.update({**values, **found})


def _configs(model: PreTrainedModel) -> list[dict[str, Any]]:
    configs = (model.config, getattr(model, "generation_config", None))
    return [vars(config) for config in configs if config is not None]


def unwrap_forward(model: nn.Module) -> None:
    """Give a model its own forward, without the autocast of an accelerator, and let the next one prepare it again."""
    own = vars(model)
    forward = own.pop("_original_forward", None)
    if forward is not None:
        own.pop("forward", None)
        if getattr(forward, "__func__", None) is not type(model).forward:
            own["forward"] = forward  # one that the caller has set on this model
    own.pop("_is_accelerate_prepared", None)
