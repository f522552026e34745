"""Open a model and its tokenizer by one name: a name on the hub, a model folder, or the folder of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from secateur.surgery import checkpoint
from secateur.surgery.auto_classes import auto_class
from secateur.system.errors import UserError
from secateur.system.load_report import without_load_report


def model_folder(name: str | Path) -> Path:
    """The folder of a model: of a finished run, the folder `model` in it."""
    inner = Path(name) / "model"
    return inner if inner.is_dir() and not (Path(name) / "config.json").is_file() else Path(name)


def open_model(name: str | Path) -> PreTrainedModel:
    """A compact model, or a dense checkpoint in fp32 with the head that its config names; in evaluation mode.

    Raises:
        UserError: it cannot be loaded, or lacks some of its weights.
    """
    folder = model_folder(name)
    if folder.is_dir() and checkpoint.read_config(folder).to_dict().get("secateur"):
        return checkpoint.load(folder)
    model, missing = _load_dense(str(folder if folder.is_dir() else name), str(name))
    if lost := sorted(key for key in missing if "pooler." not in key):
        raise UserError(
            f"model {str(name)!r} lacks {len(lost)} of its weights (the first is {lost[0]}): give a complete checkpoint"
        )
    return model.eval()


def _load_dense(source: str, name: str) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the weights that its checkpoint lacks."""
    try:
        config = AutoConfig.from_pretrained(source)
        auto: Any = getattr(transformers, _own_class(config.architectures))
        with without_load_report():
            model, loading = auto.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # damaged files, other folders and a hub out of reach raise errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model {name!r} cannot be loaded ({reason}): give a folder written by save_pretrained, or a name on the "
            "hub"
        ) from error
    return model, set(loading["missing_keys"])


def _own_class(architectures: list[str] | None) -> str:
    """The class that loads a checkpoint with its own head; that of the bare encoder for an unsupported head."""
    try:
        return auto_class((architectures or [""])[0])
    except ValueError:
        return "AutoModel"


def open_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that is saved with a model.

    Raises:
        UserError: it has none, or one that cannot be loaded.
    """
    folder = model_folder(name)
    try:
        return AutoTokenizer.from_pretrained(folder if folder.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that loads: give a model folder that holds one") from error
