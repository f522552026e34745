"""A size of the weights as the target of a run or a cut: the density that has it, the plan that fits, and the refusals.

Before training the density of the layers is solved for, with the vocabulary, the rank of the word embeddings and the
types that are stored as they are set. The plan in the end is the largest within that density whose file has at most the
bytes asked for, with the padding of heads, which depends on the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.size import (
    Storage,
    density_within,
    kept_bytes,
    largest_density,
    least_bytes,
    least_left_bytes,
    parts,
    planned_bytes,
    unpadded_bytes,
    unpadded_tensors,
)
from secateur.budget.space import Space
from secateur.budget.wider import lowering_units
from secateur.methods.method import Method
from secateur.report.size_text import MEGABYTE, megabytes, parts_text
from secateur.run.recipe import Recipe
from secateur.run.recipe_storage import StorageRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.structure.architecture import VOCABULARIES
from secateur.structure.binding import bind
from secateur.structure.groups import kinds_of
from secateur.structure.plan import Plan
from secateur.surgery.factorisation import embedding_rank
from secateur.surgery.storage import STORED
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.system.quantities import at_least, at_most


@dataclass(frozen=True)
class SizeGoal:
    """A size to reach.

    Attributes:
        size: bytes of the file of the weights, at most.
        storage: how they are stored.
        others: settings that are not in use and would make the file smaller by an unknown amount, as options.
    """

    size: int
    storage: Storage
    others: tuple[str, ...] = ()

    def check(self, space: Space) -> None:
        """Refuse a size out of reach.

        Raises:
            UserError: it is above the size of the unpruned model, or leaves nothing of the layers.
        """
        if self.size > (whole := self._whole(space)):
            raise UserError(
                f"{self._asked} is more than the {megabytes(whole, at_most)} MB that the unpruned model has when it "
                "is stored as asked for: ask for less, or for a density"
            )
        if self.size < (least := least_left_bytes(space, self.storage)):
            raise self._out_of_reach(space, f"at least {megabytes(least, at_least)} MB")

    def density(self, space: Space) -> float:
        """The density of the layers at which the file has the size.

        Raises:
            UserError: as `check`.
        """
        self.check(space)
        return density_within(space, self.storage, self.size)

    def plan(self, method: Method, most: float) -> Plan:
        """The largest plan of a method that fits, with the size asked for and its own.

        Args:
            most: the largest density.

        Raises:
            UserError: no plan fits that leaves anything of the layers.
        """
        space = method.space
        cost = space.unit_cost()
        step = float(cost[cost > 0].min()) / space.total() / 2
        density = largest_density(partial(_kept_at, method), self._fits(space), most, step)
        if density is None:
            raise self._out_of_reach(space, "more")
        plan = method.plan(density, embedding_rank(space))
        achieved = {"asked_bytes": self.size, "bytes": planned_bytes(space, plan, self.storage)}
        return replace(plan, asked=None, size={**achieved, "unpruned_bytes": self._whole(space)})

    def _fits(self, space: Space) -> Callable[[Tensor], bool]:
        return lambda kept: kept_bytes(space, kept, self.storage) <= self.size

    def _whole(self, space: Space) -> int:
        return unpadded_bytes(space, space.ones(), self.storage)

    def _least(self, space: Space) -> int:
        return least_bytes(space, self.storage)

    @property
    def _asked(self) -> str:
        """The size as it was asked for."""
        return f"{self.size / MEGABYTE:g} MB"

    def _out_of_reach(self, space: Space, enough: str) -> UserError:
        """An error that names the floor, where its bytes are, and what would lower it.

        Args:
            enough: the size to ask for.
        """
        nothing = torch.zeros(len(space))
        where = parts_text(parts(space, unpadded_tensors(space, nothing, self.storage)))
        ways = self._lower(space)
        return UserError(
            f"{self._asked} is out of reach: with nothing kept of the units {', '.join(space.units)} the "
            f"file has {megabytes(self._least(space), at_least)} MB ({where}): ask for {enough}"
            + (f", or lower that by {', '.join(ways)}" if ways else "")
        )

    def _lower(self, space: Space) -> list[str]:
        """What would lower the floor, with the floor that it gives where that is known."""
        least = self._least(space)
        stored = {"--embedding-rows int8": replace(self.storage, int8_rows=True)}
        if self.storage.dtype.itemsize > 2:
            stored["--store bf16"] = replace(self.storage, dtype=torch.bfloat16)
        floors = {option: least_bytes(space, storage) for option, storage in stored.items()}
        ways = [f"{option} ({megabytes(floor, at_least)} MB)" for option, floor in floors.items() if floor < least]
        units = lowering_units(space, kinds_of(space.table), self._least)
        return [*self.others, *ways, *([f"more units ({', '.join(units)})"] if units else [])]


def _kept_at(method: Method, density: float) -> Tensor | None:
    """`(N,)` bool: the units that a method keeps at a density; None if that leaves nothing of the layers."""
    if density < method.space.floor():
        return None
    with evaluating([method]):
        kept = method.chosen(density) > 0
    return kept if method.space.density(kept) else None


def size_goal(
    target: TargetRecipe, storage: StorageRecipe, model: PreTrainedModel, fewer_pieces: str | None
) -> SizeGoal:
    """The goal of a target with a size.

    Args:
        model: before pruning, with the pieces of the vocabulary that are kept and embeddings of the target's rank.
        fewer_pieces: the option that would remove pieces; None if pieces were removed.
    """
    words = set(bind(model).vocabularies)
    pieces = fewer_pieces if words == {VOCABULARIES[0]} else None  # a decoder's own ones cannot be cut
    rank = "--embedding-rank auto" if words and target.embedding_rank is None else None
    stored = Storage(STORED[storage.dtype], model.dtype, int8_rows=storage.embeddings == "int8")
    return SizeGoal(target.size or 0, stored, tuple(option for option in (pieces, rank) if option))


def size_goal_of(recipe: Recipe, space: Space) -> SizeGoal:
    """The goal of a run, for the space of its student before pruning."""
    fewer_pieces = "--vocabulary task" if recipe.vocabulary.pieces == "all" else None
    return size_goal(recipe.target, recipe.storage, space.model, fewer_pieces)
