"""What the model of a run kept of each head, read from the plan of its compact folder, without the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from secateur.structure.plan import Plan
from secateur.surgery.auto_classes import auto_class_of
from secateur.surgery.checkpoint import DAMAGE, read_config
from secateur.system.compat.auto_classes import stock_class
from secateur.system.errors import UserError


@dataclass(frozen=True)
class KeptHeads:
    """The dims that each head kept, and the sizes of the groups of units.

    Attributes:
        head_dim: QK and VO dims of each head before the cut.
        dims: `qk` and `vo` -> name of each layer (or of its second attention) -> the dims that each head kept.
        group_sizes: name of a group of the plan -> number of its units before the cut.
        kinds: as `Reading.kinds`.
    """

    head_dim: int
    dims: Mapping[str, Mapping[str, list[int]]]
    group_sizes: Mapping[str, int]
    kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def read(folder: Path) -> KeptHeads:
    """The kept dims of a compact folder's model.

    Raises:
        UserError: the folder's config or plan is damaged.
    """
    dense = _dense(folder)
    plan = Plan.load(folder / "plan.json", dense)
    space = plan.space(dense)
    reading, table = plan.read(space), space.table
    dims = {
        axis: {block: reading.by_head(f"{block}.{axis}").sum(dim=1).tolist() for block in table.blocks}
        for axis in ("qk", "vo")
    }
    sizes = {group.name: group.size for group in space.groups}
    return KeptHeads(table.head_dim, dims, sizes, reading.kinds())


def _dense(folder: Path) -> PreTrainedModel:
    """The model of a compact folder before its cut, on the `meta` device."""
    config = read_config(folder)
    config.secateur = None
    vars(config).pop("auto_map", None)  # which transformers reads where a classifier builds its decoder
    try:
        auto = getattr(transformers, auto_class_of(config))
        with torch.device("meta"):
            return stock_class(auto, type(config))(config)
    except DAMAGE as error:
        raise UserError(
            f"{folder}/config.json describes no model that can be built ({error}): copy the folder again"
        ) from error
