"""The positions of a model: the longest sequence that it can read."""

from __future__ import annotations

from transformers import PreTrainedModel

from secateur.structure.architectures import ARCHITECTURES

TABLE = "position_embeddings"
"""How the path of a table of positions ends."""


def positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can read, in tokens; None if there is no limit.

    None is set by the config of some, and others count the distances of tokens alone: in DeBERTa-v3 the table of
    positions that the family may have is absent, whatever number of them its config names.
    """
    if _without_table(model):
        return None
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith(TABLE) and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # positions count from padding_idx + 1
    return limit


def _without_table(model: PreTrainedModel) -> bool:
    """Whether the model lacks the table of positions that its family describes."""
    family = ARCHITECTURES.all().get(model.config.model_type)
    paths = [row.path for row in family.stem if row.path.endswith(TABLE)] if family is not None else []
    modules = {name for name, _ in model.base_model.named_modules()} if paths else set()
    return bool(paths) and not modules.intersection(paths)
