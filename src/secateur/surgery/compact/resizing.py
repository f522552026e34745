"""What a compact model says of itself once it has other outputs than it was cut with."""

from __future__ import annotations

from typing import Any

from torch import nn


def with_outputs(described: dict[str, Any] | None, model: nn.Module) -> dict[str, Any] | None:
    """The `secateur` key of a config with the numbers of outputs that the Linears of its model have."""
    if not described:
        return described
    modules = dict(model.named_modules())
    linear = {
        path: [getattr(modules.get(path), "out_features", outputs), into]
        for path, (outputs, into) in described["linear"].items()
    }
    return {**described, "linear": linear}
