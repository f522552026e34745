"""How the keys of a recipe are spelled: in groups, with dots, and flat as version 0.1.0 had them.

training: {epochs: 8}      grouped, as recipe files and reports have it
training.epochs: 8         dotted, as `--set` and the defaults of methods and tasks have it
epochs: 8                  flat, as version 0.1.0 had it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORT = {"data": "source", "method": "name", "vocabulary": "pieces"}
"""Group -> the key that a value means which stands for the whole group: `data: glue/sst2`."""

GROUPS = {
    "data": ("task", "text", "label", "metric", "rows", "max_length"),
    "target": (
        "units",
        "density",
        "latency",
        "speedup",
        "keep",
        "toward",
        "latency_table",
        "round_to",
        "embedding_rank",
    ),
    "method": ("options", "begin", "end", "ramp", "train", "shrink"),
    "distillation": (
        "start",
        "temperature",
        "divergence",
        "logits_weight",
        "hidden",
        "match",
        "hidden_projection",
        "hidden_weight",
        "hidden_of",
        "labels_weight",
        "label_smoothing",
        "cache",
        "cache_gb",
    ),
    "training": (
        "epochs",
        "batch_size",
        "accumulate",
        "learning_rate",
        "decay",
        "recover_learning_rate",
        "warmup",
        "weight_decay",
        "augment",
        "average",
        "freeze_embeddings",
        "dropout",
        "bf16",
        "evaluations",
        "evaluation_rows",
        "select",
        "checkpoints",
        "report_to",
        "teacher_epochs",
        "teacher_learning_rate",
    ),
    "storage": (),
    "measurement": ("shapes", "repeats"),
    "card": (),
    "vocabulary": (),
}
"""Group -> those of its keys that version 0.1.0 had under the same name, without the group."""

FLAT = {key: f"{group}.{key}" for group, keys in GROUPS.items() for key in keys}
FLAT |= {"task_options": "data.options", "target_shape": "target.shape"}
"""Flat key of version 0.1.0 -> dotted key."""


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe by their dotted keys, from any of the spellings; of two values for one key, the later.

    A key that no recipe has stays as it is.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in GROUPS and isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif key in SHORT:
            found[f"{key}.{SHORT[key]}"] = value
        else:
            found[FLAT.get(key, key)] = value
    return found


def grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys as groups."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        group, dot, name = key.partition(".")
        if dot:
            found.setdefault(group, {})[name] = value
        else:
            found[key] = value
    return found


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a recipe in groups, from those that this version or version 0.1.0 wrote."""
    return grouped(dotted(values))
