"""Units that could be pruned beside those of a space, which a refusal of an amount out of reach names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from secateur.structure.unit_names import stack_of
from secateur.system.errors import UserError

if TYPE_CHECKING:
    from secateur.budget.space import Space


def wider_spaces(space: Space, kinds: Iterable[str]) -> dict[str, Space]:
    """Name of further units -> the space with them: those of these kinds, and of the other stack where one is named."""
    stacks = [stack for stack in dict.fromkeys(map(stack_of, space.table.layers)) if stack]
    names = [kind for kind in kinds if kind not in space.kinds]
    names += [f"{stack}.{kind}" for kind in space.kinds for stack in stacks]
    found = {}
    for name in names:
        try:
            found[name] = type(space)(space.model, *space.units, name, budget=space.budget, round_to=space.round_to)
        except UserError:  # the space has them, or the model has not, or they do not go together
            continue
    return found


def lowering_units(space: Space, kinds: Iterable[str], floor: Callable[[Space], float]) -> list[str]:
    """Names of the further units of `wider_spaces` with which a floor is lower."""
    least = floor(space)
    return [name for name, wider in wider_spaces(space, kinds).items() if floor(wider) < least]


def or_units_from(names: Iterable[str]) -> str:
    """The end of a sentence of advice: to add some of these units; empty where there are none."""
    named = ", ".join(names)
    return f" or add units from {named}" if named else ""
