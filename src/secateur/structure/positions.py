"""The positions of a model: the longest sequence that it can read."""

from __future__ import annotations

from transformers import PreTrainedModel


def positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can read, in tokens; None if its config sets no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # positions count from padding_idx + 1
    return limit
