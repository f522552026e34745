"""The name of `secateur.tasks.generation` up to version 0.1.0."""

from __future__ import annotations

import warnings
from typing import Any

from secateur.tasks import generation

_RENAMED = {"Search": "BeamSearch", "texts_of": "decode", "write": "generate"}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(
        f"{__name__}.{name} is now secateur.tasks.generation.{new}: import it from there",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(generation, new)
