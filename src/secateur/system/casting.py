"""A model in another dtype, as it would be if it had been loaded in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def cast(model: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> None:
    """Cast a model in place, and move it, but for the dtype of buffers that no checkpoint holds.

    Loading leaves these as they are computed. `nn.Module.to` would round the frequencies of rotary positions, so that
    a model in bfloat16 would be another one than its saved checkpoint.
    """
    saved = model.state_dict().keys()
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
    anything: Any = model  # the wrapper of transformers hides the types that `to` takes
    anything.to(device=device, dtype=dtype)
    for name, buffer in computed.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, buffer.to(device))
