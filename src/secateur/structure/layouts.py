"""How the kept heads of all attentions of a model are stored: the cheapest layouts, and whether others fit."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.structure.architecture import Attention
from secateur.structure.head_buckets import MULTIPLES, Layout, cheapest_layout
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
        if attention.norms and reading.table.head_dim % layout.multiple:
            raise UserError(
                f"the plan stores the heads of {attention.path} in multiples of {layout.multiple} dims: expected a "
                f"number that divides {reading.table.head_dim}, because all dims of a head are normed"
            )
    return tuple(layouts)


def cheapest_layouts(reading: Reading) -> tuple[Layout, ...]:
    """The cheapest layout of each attention (`head_buckets.cheapest_layout`)."""
    hidden = int(reading.alive["hidden"].sum())
    return tuple(
        cheapest_layout(
            *reading.head_sizes(number), hidden, heads=reading.heads_of_each(number), multiples=_multiples(attention)
        )
        for number, attention in enumerate(reading.table.attentions)
    )


def _multiples(attention: Attention) -> tuple[int, ...]:
    """Of which the widths of an attention may be multiples: even numbers if rotary, and no padding beside a norm."""
    least = 2 if attention.rotary else 1
    return (least,) if attention.norms else tuple(least * -(-multiple // least) for multiple in MULTIPLES)


def _head_sizes(reading: Reading) -> list[tuple[list[int], list[int]]]:
    """QK dims and VO dims of the kept heads of each attention."""
    return [reading.head_sizes(number) for number in range(len(reading.table.attentions))]
