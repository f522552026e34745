"""Fingerprints of models: which weights a plan or an exported file was made from, and which outputs a cache holds.

These are two identities. `weights_fingerprint` identifies the tensors alone, whatever class and config they are used
with. `model_fingerprint` identifies everything that outputs depend on. Both values are written to disk and compared
with those of older versions, so what they are computed from must not change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.system.errors import UserError
from secateur.system.files import fingerprint
from secateur.system.model_state import without_weights

NOT_COMPUTED_WITH = ("_name_or_path", "problem_type")
"""Keys of a config on which no output depends: where the model was loaded from, and how its loss is computed."""


def weights_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that identify a model's tensors by name, shape and value: the `source` of a plan.

    Raises:
        UserError: another process has the weights.
    """
    if without_weights(model):
        raise UserError(
            "a plan names the weights that it was made from, and this process has none (they are on meta): "
            "make it in the main process"
        )
    return fingerprint(
        chunk
        for name, tensor in sorted(model.state_dict().items())
        for chunk in (f"{name}{tuple(tensor.shape)}", tensor_bytes(tensor))
    )


def model_fingerprint(model: PreTrainedModel) -> str:
    """64 hex digits that identify all that a model's outputs depend on: its class, its config and its weights."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTED_WITH}
    described = json.dumps([type(model).__qualname__, config], sort_keys=True, default=str)
    return fingerprint(chain([described], tensor_chunks(model.state_dict().items())), digits=64)


def tensor_chunks(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Any]:
    """For each tensor its name, type and shape, and its bytes: what a fingerprint is made of."""
    for name, tensor in tensors:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        yield tensor_bytes(tensor)


def tensor_bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor as an array, without a copy where the tensor is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
