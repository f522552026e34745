"""A plan: the frozen result of a search, from which a model is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers import __version__ as transformers_version

from secateur.structure.achieved import densities, word_tables
from secateur.structure.architecture import VOCABULARIES
from secateur.structure.axis_table import AxisTable
from secateur.structure.fingerprints import weights_fingerprint
from secateur.structure.head_buckets import Layout
from secateur.structure.layouts import fitting_layouts
from secateur.structure.plan_file import FORMAT, checked, group_masks, group_to_dict, layout_from_dict, read_plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.structure.vocabulary import Vocabulary
from secateur.system.errors import UserError

SAME = ("method", "asked", "keep", "latency", "embedding_rank", "embedding_rows", "source")
"""Keys of `plan.json` whose values are arguments of `Plan.of`."""


@dataclass(frozen=True, repr=False)
class Plan:
    """Which units of a space are kept, the density asked for and achieved, and the origin of the choice.

    Attributes:
        masks: `(N,)`; 0 removes a unit, 1 keeps it, a value between is folded into the weights.
        asked: density that was asked for; None for a plan made by hand, or for another amount.
        keep: number of units that was asked for, and is kept; else None.
        latency: ms asked for and predicted, and the protocol, if a latency was asked for; else None.
        size: the bytes of the file that were asked for, `asked_bytes`, those that it has, `bytes`, and those of the
            unpruned model stored in the same way, `unpruned_bytes`, if a size was
            asked for; else None.
        achieved: scope (`prunable`, `layers`, `model`) -> density after closure; with tiles also `filled`, the density
            of `prunable` with the zeros that are stored inside dense weights. `model` is relative to the model before
            its vocabulary was cut and its word embeddings were factorised.
        embedding_rank: rank of the factorised word embeddings, None if they are not factorised.
        embedding_rows: "int8" if the rows of the word embeddings are stored so, None if they are not quantised.
        layouts: how the kept heads of each attention are stored and computed; they affect the speed only.
        vocabulary: the pieces that are kept, None if all are.
        source: `weights_fingerprint` of the model that it was made from; it may be applied to other weights of the same
            shape.
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
    vocabulary: Vocabulary | None = None
    size: Mapping[str, int] | None = None
    model_type: str = ""
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    embedding_rows: str | None = None

    def __repr__(self) -> str:
        achieved = ", ".join(f"{density:.4f} of {scope}" for scope, density in self.achieved.items())
        asked = "" if self.asked is None else f", asked for {self.asked:g}"
        kept = f"{int((self.masks > 0).sum()):,} of {len(self.masks):,} units ({', '.join(self.units)})"
        return f"Plan({self.model_type} by {self.method}: keeps {kept}, density {achieved}{asked})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and all(
            _equal(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.model_type, self.method, self.units, self.source, len(self.masks)))

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
        vocabulary: Vocabulary | None = None,
        embedding_rows: str | None = None,
        layouts: Sequence[Layout] | None = None,
        source: str | None = None,
    ) -> Plan:
        """A plan from masks `(N,)` over a space, without the units that are dead because of others.

        Args:
            asked: the density asked for.
            keep: the number of units asked for.
            latency: the record of a latency asked for, see `Budget.record`.
            vocabulary: the pieces that are kept; the space's model has all pieces, or the kept ones alone.
            layouts: of each attention's kept heads; None chooses the cheapest (`layouts.cheapest_layouts`).
            source: fingerprint of the weights that the masks were made from; None computes that of the space's model,
                which must then have weights (not be on `meta`).

        Raises:
            UserError: the masks have another length, values outside [0, 1] or more or fewer kept units than `keep`, the
                embedding rank does not make the embeddings smaller, the vocabulary is not of the model, or the layouts
                are not of the kept heads.
        """
        _check_masks(space, masks)
        check_vocabulary(space.table, vocabulary)
        if embedding_rows is not None:
            space.table.own_words("word embeddings in int8")
        if embedding_rank is not None:
            check_embedding_rank(space.table, embedding_rank, vocabulary)
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
            achieved=densities(space, reading, kept, embedding_rank, vocabulary),
            embedding_rank=embedding_rank,
            vocabulary=vocabulary,
            embedding_rows=embedding_rows,
            layouts=fitting_layouts(reading, layouts),
            latency=latency,
            keep=keep,
            model_type=space.table.model_type,
            source=weights_fingerprint(space.model) if source is None else source,
            versions={"transformers": transformers_version, "torch": torch.__version__},
        )

    @staticmethod
    def of_all_units(model: PreTrainedModel, **same: Any) -> Plan:
        """The plan that keeps every unit of a dense model, and changes its word embeddings alone.

        Args:
            same: as of `of`.
        """
        space = UnitSpace(model)
        return Plan.of(space, torch.ones(len(space)), **same)

    @property
    def kept(self) -> Tensor:
        """`(N,)` bool."""
        return self.masks > 0

    def read(self, space: UnitSpace) -> Reading:
        """What the plan keeps of the model, axis by axis.

        Raises:
            UserError: the space has other units.
        """
        self._check_space(space)
        return space.read(self.masks)

    def space(self, model: PreTrainedModel) -> UnitSpace:
        """The space of this plan over a model.

        Raises:
            UserError: the model is of another family or shape than the one that the plan was made for.
        """
        if model.config.model_type != self.model_type:
            raise UserError(f"the plan is for a {self.model_type!r} model, this is a {model.config.model_type!r}")
        space = UnitSpace(model, *self.units)
        if len(space) != len(self.masks):
            raise UserError(
                f"the plan has {len(self.masks)} units, this model has {len(space)}: use the plan's own model"
            )
        check_vocabulary(space.table, self.vocabulary)
        return space

    def pieces_left_to_cut(self, model: PreTrainedModel) -> Vocabulary | None:
        """The pieces of a model with more of them that are kept; None where the model keeps all that it has.

        Raises:
            UserError: as `space`.
        """
        space = self.space(model)
        if self.vocabulary is None or space.table.vocabularies[VOCABULARIES[0]] == len(self.vocabulary):
            return None
        return self.vocabulary

    def with_vocabulary(self, model: PreTrainedModel, vocabulary: Vocabulary) -> Plan:
        """The same units of a model of which only some pieces are kept.

        Args:
            model: the plan's own, with all pieces or with the kept ones alone.

        Raises:
            UserError: the plan or the vocabulary does not fit the model.
        """
        space = replace(self, vocabulary=vocabulary).space(model)
        achieved = densities(space, space.read(self.kept), self.kept, self.embedding_rank, vocabulary)
        return replace(self, vocabulary=vocabulary, achieved=achieved)

    def to_dict(self, space: UnitSpace) -> dict[str, Any]:
        """Plain values, ready for JSON: see `plan_file`.

        Raises:
            UserError: the space has other units.
        """
        self._check_space(space)
        values = {
            "model_type": self.model_type,
            "method": self.method,
            "units": list(self.units),
            "asked": self.asked,
            "achieved": dict(self.achieved),
            "embedding_rank": self.embedding_rank,
            "layouts": [layout.to_dict() for layout in self.layouts],
            **({"latency": dict(self.latency)} if self.latency is not None else {}),
            **({"size": dict(self.size)} if self.size is not None else {}),
            **({"keep": self.keep} if self.keep is not None else {}),
            **({"vocabulary": self.vocabulary.to_dict()} if self.vocabulary is not None else {}),
            **({"embedding_rows": self.embedding_rows} if self.embedding_rows is not None else {}),
            "source": self.source,
            "versions": dict(self.versions),
            "groups": {name: group_to_dict(self.masks[rows]) for name, rows in space.slices.items()},
        }
        return FORMAT.stamped(values)

    @staticmethod
    def from_dict(data: Any, model: PreTrainedModel) -> Plan:
        """Read a plan for a model.

        Raises:
            UserError: a key is missing or unknown, or a value does not fit the model.
        """
        data = checked(data)
        space = UnitSpace(model, *data["units"])
        unknown = set(data["groups"]) ^ set(space.slices)
        if unknown:
            raise UserError(f"the plan's groups do not fit the model: {sorted(unknown)[0]!r} is on one side only")
        if data["model_type"] != space.table.model_type:
            raise UserError(f"the plan is for a {data['model_type']!r} model, this is a {space.table.model_type!r}")
        masks = torch.cat([group_masks(group, data["groups"][group.name]) for group in space.groups])
        same = {key: data.get(key) for key in SAME}
        same["vocabulary"] = Vocabulary.from_dict(data["vocabulary"]) if "vocabulary" in data else None
        plan = Plan.of(space, masks, layouts=[layout_from_dict(one) for one in data["layouts"]], **same)
        return replace(plan, versions=data["versions"], size=data.get("size"))

    def _check_space(self, space: UnitSpace) -> None:
        """Refuse a space whose units are others than those of the masks, also where they are as many."""
        if (space.units, len(space)) != (self.units, len(self.masks)):
            raise UserError(
                f"the plan has {len(self.masks)} units ({', '.join(self.units)}), the space has {len(space)} "
                f"({', '.join(space.units)}): use the space that it was made over, plan.space(model)"
            )

    def save(self, path: Path | str, space: UnitSpace) -> None:
        """Write the plan as JSON; raises as `to_dict`."""
        FORMAT.write(path, self.to_dict(space))

    @staticmethod
    def load(path: Path | str, model: PreTrainedModel) -> Plan:
        """Read a plan written by `save`, for a model of the shape that it was made for."""
        return Plan.from_dict(read_plan(path), model)


def _equal(one: object, other: object) -> bool:
    """Whether two values of a plan are the same; tensors are compared as a whole."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one == other


def _check_masks(space: UnitSpace, masks: Tensor) -> None:
    if masks.shape != (len(space),):
        raise UserError(f"masks have shape {tuple(masks.shape)}, the space has {len(space)} units")
    if not bool(((masks >= 0) & (masks <= 1)).all()):
        raise UserError("masks must lie in [0, 1]; some are outside or not a number")


def check_embedding_rank(table: AxisTable, rank: int, vocabulary: Vocabulary | None = None) -> None:
    """Refuse a rank that the word embeddings of a model, with the pieces that are kept, cannot be factorised to.

    Raises:
        UserError: there are none, or it does not make them smaller.
    """
    table.own_words("an embedding rank")
    for pieces, rows, size in word_tables(table):
        fewer = vocabulary is not None and pieces == VOCABULARIES[0]
        check_rank(len(vocabulary or ()) if fewer else rows, size, rank)


def check_rank(rows: int, size: int, rank: int) -> None:
    """Refuse a rank at which the factors, `(rows + size) x rank`, are not smaller than the table `(rows, size)`.

    Raises:
        UserError: the message names the largest possible rank.
    """
    largest = (rows * size - 1) // (rows + size)
    if type(rank) is not int or not 0 < rank <= largest:
        raise UserError(
            f"embedding rank {rank!r} is not a whole number from 1 to {largest}: it must shrink the table {rows} x "
            f"{size}"
        )


def check_vocabulary(table: AxisTable, vocabulary: Vocabulary | None) -> None:
    """Refuse a vocabulary that is not one of the model, with all its rows or with the kept ones alone.

    Raises:
        UserError: the message names the numbers of rows.
    """
    rows = table.vocabularies.get(VOCABULARIES[0])
    if vocabulary is not None and rows not in (vocabulary.size, len(vocabulary)):
        raise UserError(
            f"the plan keeps {len(vocabulary)} of {vocabulary.size} pieces, this model has {rows}: use the plan's own "
            "model, before or after its vocabulary was cut"
        )
