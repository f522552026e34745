"""What a folder for servers says about its model, so that a file in it can be scored without that model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from secateur.deploy.hub_layout import FILES
from secateur.surgery.auto_classes import own_auto_class
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.folder import read_head
from secateur.system.errors import UserError, as_user_error


def folder_of(file: Path) -> Path:
    """The folder for servers that a file is in.

    Raises:
        UserError: it is in none.
    """
    file = file.resolve()
    folder = file.parent.parent
    if file not in [folder / name for name in FILES.values()] or not (folder / "config.json").is_file():
        raise UserError(
            f"expected {' or '.join(FILES.values())} in a folder of secateur export --layout hub, which has labels and "
            f"a tokenizer, got {file}: compare it with its model by secateur verify --exported"
        )
    return folder


def described_model(folder: Path) -> PreTrainedModel:
    """The kind of model that a folder describes, its labels and its head, without layers and weights (on `meta`).

    A task asks it whether it fits; nothing runs it.

    Raises:
        UserError: the config is damaged, or names a head that is not supported.
    """
    with as_user_error(f"{folder} cannot be read", "export the model again"), torch.device("meta"):
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = AutoConfig.for_model(**values)
        config.num_hidden_layers = 0
        kind: Any = getattr(transformers, own_auto_class(config) or "")
        model = kind.from_config(config)
        head = read_head(folder)
        return model if head is None else attach_head(model, head.of_width(config.hidden_size))
