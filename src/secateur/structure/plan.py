"""A plan: the frozen verdict of what is kept. Everything before it is search, everything after it is engineering."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers import __version__ as transformers_version

from secateur.structure.head_buckets import Layout, cheapest_layout
from secateur.structure.reading import Reading
from secateur.structure.space import Group, UnitSpace
from secateur.system.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What of a space is kept, how much was asked and achieved, and where it comes from.

    Attributes:
        masks: `(N,)`; 0 removes a unit, 1 keeps it, a value between is folded into the weights.
        asked: density that was asked for, None for a plan made by hand, for a latency or for a number of units.
        keep: number of units that was asked for, and is kept; None where none was.
        latency: what a space with a `cost` says of the plan, None without one: ms asked and predicted, the protocol.
        achieved: scope (`prunable`, `layers`, `model`) -> density after closure; of tiles also `filled`, the prunable
            one with the zeros that they leave inside dense weights.
        embedding_rank: rank of the factorised word embeddings, None to leave them whole.
        layouts: how the kept heads of each attention are stored and run; a choice of speed alone.
        source: hash of the weights that it was made from; a plan may be applied to later weights of the same shape.
    """

    units: tuple[str, ...]
    masks: Tensor = field(repr=False)
    method: str
    asked: float | None
    achieved: Mapping[str, float]
    embedding_rank: int | None = None
    layouts: tuple[Layout, ...] = ()
    latency: Mapping[str, Any] | None = None
    keep: int | None = None
    model_type: str = ""
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        space: UnitSpace,
        masks: Tensor,
        *,
        method: str = "hand",
        asked: float | None = None,
        keep: int | None = None,
        latency: Mapping[str, Any] | None = None,
        embedding_rank: int | None = None,
        layouts: Sequence[Layout] | None = None,
        source: str | None = None,
    ) -> Plan:
        """A plan from masks `(N,)` over a space; units that others make dead are closed.

        Args:
            asked: the density asked for.
            keep: the number of units asked for.
            latency: the record of a latency asked for, see `Budget.record`.
            layouts: of each attention's kept heads; None takes the cheapest (`head_buckets.cheapest_layout`).
            source: hash of the weights that the masks were made from; None takes those of the space's model, which
                must then have weights (not be on `meta`).

        Raises:
            UserError: masks of another length, outside [0, 1] or not finite, that keep another number of units, an
                embedding rank that does not shrink the table, or layouts of other heads than are kept.
        """
        if masks.shape != (len(space),):
            raise UserError(f"masks have shape {tuple(masks.shape)}, the space has {len(space)} units")
        if not bool(((masks >= 0) & (masks <= 1)).all()):
            raise UserError("masks must lie in [0, 1]; some are outside or not a number")
        if embedding_rank is not None:
            space.table.one_stack("factorising the word embeddings")
            words: Any = space.model.get_input_embeddings()  # stock or factorised: both show the whole table
            rows, size = words.weight.shape
            check_rank(rows, size, embedding_rank)
        closed = masks.detach().float() * space.closure(masks > 0)
        kept = closed > 0
        reading = space.read(kept)
        if keep is not None and int(kept.sum()) != keep:
            raise UserError(f"the plan keeps {int(kept.sum())} units where keep says {keep}: make the two agree")
        return Plan(
            units=space.units,
            masks=closed.cpu(),
            method=method,
            asked=asked,
            achieved=_achieved(space, reading, kept, embedding_rank),
            embedding_rank=embedding_rank,
            layouts=_layouts(reading, layouts),
            latency=latency,
            keep=keep,
            model_type=space.table.model_type,
            source=fingerprint(space.model) if source is None else source,
            versions={"transformers": transformers_version, "torch": torch.__version__},
        )

    @property
    def kept(self) -> Tensor:
        """`(N,)` bool."""
        return self.masks > 0

    def read(self, space: UnitSpace) -> Reading:
        """What the plan leaves of the model, axis by axis."""
        return space.read(self.masks)

    def space(self, model: PreTrainedModel) -> UnitSpace:
        """The space of this plan over a model.

        Raises:
            UserError: the model is of another family or another shape than the one planned for.
        """
        if model.config.model_type != self.model_type:
            raise UserError(f"the plan is for a {self.model_type!r} model, this is a {model.config.model_type!r}")
        space = UnitSpace(model, *self.units)
        if len(space) != len(self.masks):
            raise UserError(
                f"the plan has {len(self.masks)} units, this model has {len(space)}: use the plan's own model"
            )
        return space

    def to_dict(self, space: UnitSpace) -> dict[str, Any]:
        """JSON: every group's kept indices as ranges, and its mask values where they are not all 1."""
        return {
            "version": VERSION,
            "model_type": self.model_type,
            "method": self.method,
            "granularities": list(self.units),
            "asked": self.asked,
            "achieved": dict(self.achieved),
            "embedding_rank": self.embedding_rank,
            "layouts": [layout.to_dict() for layout in self.layouts],
            **({"latency": dict(self.latency)} if self.latency is not None else {}),
            **({"keep": self.keep} if self.keep is not None else {}),
            "source": self.source,
            "versions": dict(self.versions),
            "groups": {
                group.name: _group_to_dict(group, self.masks[space.slices[group.name]]) for group in space.groups
            },
        }

    @staticmethod
    def from_dict(data: Any, model: PreTrainedModel) -> Plan:
        """Read a plan for a model; a plan edited by hand is checked like any input.

        Raises:
            UserError: a key is missing or unknown, or a value does not fit the model.
        """
        data = _checked(data)
        space = UnitSpace(model, *data["granularities"])
        unknown = set(data["groups"]) ^ set(space.slices)
        if unknown:
            raise UserError(f"the plan's groups do not fit the model: {sorted(unknown)[0]!r} is on one side only")
        masks = torch.cat([_group_from_dict(group, data["groups"][group.name]) for group in space.groups])
        said = {key: data.get(key) for key in ("method", "asked", "keep", "embedding_rank", "source")}
        plan = Plan.of(space, masks, layouts=[_layout_from_dict(one) for one in data["layouts"]], **said)
        if data["model_type"] != plan.model_type:
            raise UserError(f"the plan is for a {data['model_type']!r} model, this is a {plan.model_type!r}")
        return replace(plan, latency=data.get("latency"), versions=data["versions"])

    def save(self, path: Path | str, space: UnitSpace) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(space), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path | str, model: PreTrainedModel) -> Plan:
        """Read a plan written by `save`, for a model of the shape that it was made for."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a readable plan ({error}): expected the JSON that `secateur` writes"
            ) from error
        return Plan.from_dict(data, model)


def fingerprint(model: PreTrainedModel) -> str:
    """A hash of the model's weights, names and shapes: the first 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_rank(rows: int, size: int, rank: int) -> None:
    """Refuse a rank at which a table `(rows, size)` and its factors, `(rows + size) x rank`, would not be smaller.

    Raises:
        UserError: naming the largest rank that is.
    """
    largest = (rows * size - 1) // (rows + size)
    if not 0 < rank <= largest:
        raise UserError(
            f"embedding rank {rank} is not between 1 and {largest}: it must shrink the table {rows} x {size}"
        )


def _achieved(space: UnitSpace, reading: Reading, kept: Tensor, rank: int | None) -> dict[str, float]:
    """Scope -> density; factorised word embeddings count in `model` as what they become, a table and a projection."""
    achieved = {scope: reading.density(scope) for scope in ("prunable", "layers", "model")}
    if space.tiled:
        achieved["filled"] = space.density(space.filled(kept))
    word = next((p for p in space.table.parameters if p.name == f"{space.table.embeddings}.weight"), None)
    if rank is not None and word is not None:
        rows, size = word.shape
        width = int(reading.lengths[word.axes[1]]) if word.axes[1] else size
        achieved["model"] -= (rows * width - rank * (rows + width)) / space.total("model")
    return achieved


def _layouts(reading: Reading, given: Sequence[Layout] | None) -> tuple[Layout, ...]:
    """A layout for each attention: the given ones, if they are of the heads that are kept, or else the cheapest."""
    sizes = [reading.head_sizes(number) for number in range(len(reading.table.attentions))]
    if given is None:
        hidden = int(reading.alive["hidden"].sum())
        return tuple(cheapest_layout(qk, vo, hidden) for qk, vo in sizes)
    fits = len(given) == len(sizes) and all(
        sorted(layout.order) == list(range(len(qk))) for layout, (qk, _) in zip(given, sizes, strict=True)
    )
    if not fits:
        raise UserError(
            "the plan's layouts are not those of the heads that it keeps: every kept head once, in a bucket"
        )
    return tuple(given)


def _group_to_dict(group: Group, masks: Tensor) -> dict[str, Any]:
    values = masks[masks != 0]
    data: dict[str, Any] = {"units": group.size, "kept": _ranges(masks.nonzero().flatten().tolist())}
    if bool((values != 1.0).any()):
        data["masks"] = values.tolist()
    return data


def _ranges(indices: list[int]) -> list[list[int]]:
    """Sorted indices as [first, last] pairs, both included."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


_KEYS = {
    "version", "model_type", "method", "granularities", "asked",
    "achieved", "embedding_rank", "layouts", "source", "versions", "groups",
}  # fmt: skip
_OPTIONAL = {"latency", "keep"}  # of a plan for a latency, or for a number of units


def _checked(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) - _OPTIONAL != _KEYS:
        odd = sorted(_KEYS ^ (set(data) - _OPTIONAL)) if isinstance(data, dict) else [type(data).__name__]
        raise UserError(
            f"this is not a plan: expected exactly the keys that `secateur` writes, at odds: {', '.join(odd)}"
        )
    if data["version"] != VERSION:
        raise UserError(
            f"the plan has version {data['version']!r}, this secateur reads {VERSION}: use a matching secateur"
        )
    names, rank = data["granularities"], data["embedding_rank"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"the plan's granularities must be a list of names, not {names!r}")
    if not (rank is None or (isinstance(rank, int) and not isinstance(rank, bool))):
        raise UserError(f"the plan's embedding_rank must be a whole number or null, not {rank!r}")
    if not (data["asked"] is None or (type(data["asked"]) in (int, float) and 0 < data["asked"] <= 1)):
        raise UserError(f"the plan's asked must be a density in (0, 1] or null, not {data['asked']!r}")
    if type(data.get("keep", 1)) is not int:
        raise UserError(f"the plan's keep must be a whole number, or not be there, not {data['keep']!r}")
    for key in ("model_type", "method", "source"):
        if not isinstance(data[key], str):
            raise UserError(f"the plan's {key} must be a string, not {data[key]!r}")
    if not isinstance(data["layouts"], list):
        raise UserError(f"the plan's layouts must be a list, not {data['layouts']!r}")
    for key in ("achieved", "versions", "groups", *({"latency"} & set(data))):
        if not isinstance(data[key], dict):
            raise UserError(f"the plan's {key} must be an object, not {data[key]!r}")
    return data


def _layout_from_dict(data: Any) -> Layout:
    """A layout, its types checked; `_layouts` checks that it fits."""
    if not isinstance(data, dict) or set(data) != {"buckets", "multiple"} or not isinstance(data["buckets"], list):
        raise UserError(f"the plan has the layout {data!r}: expected buckets, a list of lists, and multiple")
    whole = type(data["multiple"]) is int and 0 < data["multiple"] <= 1024
    buckets = data["buckets"]
    if not whole or not all(isinstance(b, list) and b and all(type(head) is int for head in b) for b in buckets):
        raise UserError(f"the plan has the layout {data!r}: expected whole numbers, and no empty bucket")
    return Layout(tuple(tuple(bucket) for bucket in buckets), data["multiple"])


def _group_from_dict(group: Group, data: Any) -> Tensor:
    """Masks `(units,)` of one group, every index and value checked."""
    if not isinstance(data, dict) or data.get("units") != group.size or not isinstance(data.get("kept"), list):
        raise UserError(f"the plan's group {group.name!r} must have units: {group.size} and kept: a list of ranges")
    if unknown := set(data) - {"units", "kept", "masks"}:
        raise UserError(
            f"the plan's group {group.name!r} has the unknown key {min(unknown)!r}: units, kept and masks are known"
        )
    masks = torch.zeros(group.size)
    previous = -1
    for pair in data["kept"]:
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
        if not whole or not previous < pair[0] <= pair[1] < group.size:
            raise UserError(
                f"the plan's group {group.name!r} has the range {pair!r}: expected rising [first, last] within it"
            )
        masks[pair[0] : pair[1] + 1] = 1.0
        previous = pair[1]
    if "masks" in data:
        values = data["masks"]
        if not isinstance(values, list) or len(values) != int(masks.sum()) or not all(type(v) is float for v in values):
            raise UserError(f"the plan's group {group.name!r} must have one mask value for each kept unit")
        masks[masks > 0] = torch.tensor(values)
    return masks
