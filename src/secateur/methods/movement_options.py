"""The options of block movement pruning: the units of its variants, and which options go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.methods.binarisers import BINARISERS, RAMPS
from secateur.methods.movement_penalty import REGULARISERS
from secateur.methods.options import name_of, number, pair
from secateur.system.errors import UserError

TILE = 32


def units_of(variant: str, tile: int = TILE, faithful: bool = False) -> tuple[str, str]:
    """The units of a variant: those of the attentions and those of the feed-forward networks.

    Raises:
        UserError: the variant is not known.
    """
    neurons = "ffn/tied" if faithful else "ffn"
    known = {
        "unstructured": ("attention/1x1", "ffn/1x1"),
        "block": (f"attention/{tile}x{tile}", f"ffn/{tile}x{tile}"),
        "hybrid": (f"attention/{tile}x{tile}", neurons),
        "struct": ("attention/head", neurons),
        "filled": (f"attention/{tile}x{tile}", neurons),
    }
    if not isinstance(variant, str) or variant not in known:
        raise UserError(f"variant {variant!r} is not known: choose from {', '.join(known)}, or leave it out")
    return known[variant]


def check_variant(variant: str | None, tile: int, faithful: bool, units: tuple[str, ...]) -> None:
    """Check that the units of a space are those of the variant, if there is one.

    Raises:
        UserError: they are not, or the variant is not known.
    """
    if variant is not None and (expected := units_of(variant, tile, faithful)) != units:
        raise UserError(
            f"the variant {variant!r} has the units {', '.join(expected)}, not {', '.join(units)}: leave one of the "
            "two out"
        )


def check_choices(binariser: str, regulariser: str, every: int) -> None:
    """Check the names, and the steps between updates of the mask.

    Raises:
        UserError: a name is not known, or `every` is not a whole number of at least 1.
    """
    name_of("binariser", binariser, BINARISERS)
    name_of("regulariser", regulariser, REGULARISERS)
    if type(every) is not int or every < 1:
        raise UserError(f"every is {every!r}: expected a whole number of steps, 1 or more")


def check_penalty_weights(weights: Mapping[str, float], units: tuple[str, ...]) -> None:
    """Check that only units of the space have a weight, and that it is from 0 on.

    Raises:
        UserError: others have one, or it is not.
    """
    if not isinstance(weights, Mapping):
        raise UserError(f"weights is {weights!r}: expected the weight of some kinds of units, as {{{units[0]}: 0.5}}")
    if unknown := sorted(set(weights) - set(units)):
        raise UserError(f"weights names {unknown[0]!r}, the units are {', '.join(units)}: choose from these")
    for kind, weight in weights.items():
        number(f"the weight of {kind!r}", weight, least=0.0)


def threshold_of(
    threshold: Sequence[float] | None, binariser: str, minimum: float, faithful: bool
) -> tuple[float, float]:
    """The first and the last published threshold, whose options are there if it is used, and only then.

    Raises:
        UserError: they are not, or the threshold is not a pair of numbers.
    """
    if not faithful and (threshold is not None or minimum):
        raise UserError("threshold and minimum go with faithful: without it the density is the target; leave them out")
    if faithful and threshold is None and RAMPS[binariser] is None:
        raise UserError("the binariser 'threshold' has no usual ramp: set threshold to its first and last score")
    return RAMPS[binariser] or (0.0, 0.0) if threshold is None else pair("threshold", threshold)
