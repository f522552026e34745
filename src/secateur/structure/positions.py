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
    tables = [module for name, module in model.named_modules() if name.endswith(TABLE)]
    if not tables and _may_have_table(model.config.model_type):
        return None
    for table in tables:
        if getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1  # positions count from padding_idx + 1
    return getattr(model.config, "max_position_embeddings", None)


def _may_have_table(family: str) -> bool:
    """Whether a family describes a table of absolute positions, which some of its models lack."""
    known = ARCHITECTURES.all().get(family)
    return known is not None and any(row.path.endswith(TABLE) for row in known.stem)
