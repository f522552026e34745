"""How the kept heads of all attentions of a model are stored: the cheapest layouts, and whether others fit."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.structure.head_buckets import Layout, cheapest_layout
from secateur.structure.reading import Reading
from secateur.system.errors import UserError


def fitting_layouts(reading: Reading, layouts: Sequence[Layout] | None) -> tuple[Layout, ...]:
    """A layout for each attention: those passed in, after checking that they fit the kept heads, or the cheapest.

    Raises:
        UserError: the layouts are not of the kept heads, or their widths do not suit rotary positions.
    """
    sizes = _head_sizes(reading)
    if layouts is None:
        return cheapest_layouts(reading)
    fits = len(layouts) == len(sizes) and all(
        sorted(layout.order) == list(range(len(qk))) for layout, (qk, _) in zip(layouts, sizes, strict=True)
    )
    if not fits:
        raise UserError("the plan's layouts do not fit its heads: expected every kept head in one bucket")
    for layout, attention in zip(layouts, reading.table.attentions, strict=True):
        if attention.rotary and layout.multiple % 2:
            raise UserError(
                f"the plan stores the heads of {attention.path} in multiples of {layout.multiple} dims: expected an "
                "even number, because dims with rotary positions are kept in pairs"
            )
    return tuple(layouts)


def cheapest_layouts(reading: Reading) -> tuple[Layout, ...]:
    """The cheapest layout of each attention (`head_buckets.cheapest_layout`)."""
    hidden = int(reading.alive["hidden"].sum())
    return tuple(
        cheapest_layout(qk, vo, hidden, pairs=attention.rotary)
        for attention, (qk, vo) in zip(reading.table.attentions, _head_sizes(reading), strict=True)
    )


def _head_sizes(reading: Reading) -> list[tuple[list[int], list[int]]]:
    """QK dims and VO dims of the kept heads of each attention."""
    return [reading.head_sizes(number) for number in range(len(reading.table.attentions))]
