"""The size of a model: its parameters, and the bytes of its weights on disk."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from secateur.system.errors import UserError


def parameter_count(model: PreTrainedModel) -> int:
    """Numbers stored in the model's parameters, padding included; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def disk_bytes(folder: str | Path) -> int:
    """Bytes of the weights in `folder`: the sum over its *.safetensors files.

    Raises:
        UserError: `folder` holds no such file.
    """
    sizes = [file.stat().st_size for file in Path(folder).glob("*.safetensors")]
    if not sizes:
        raise UserError(f"expected a model folder with *.safetensors files, got {folder}: give a saved model's folder")
    return sum(sizes)
