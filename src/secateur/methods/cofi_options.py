"""Which options of CoFi go together."""

from __future__ import annotations

from secateur.methods.options import number
from secateur.system.errors import UserError

EVIDENCE = 2.0
"""The default weight of the evidence, where the constraint is exact."""
LEARNING_RATES = {True: 0.1, False: 0.01}
"""The default learning rates of the gates, where the constraint is exact, and where it is a Lagrangian."""


def is_exact(constraint: str | None, *, lagrangian_only: bool) -> bool:
    """Whether a constraint is exact; one that is not named is, unless other options need a Lagrangian.

    Raises:
        UserError: the name is unknown, or "exact" beside such an option.
    """
    if constraint not in (None, "exact", "lagrangian") or (constraint == "exact" and lagrangian_only):
        raise UserError(
            f"constraint is {constraint!r}: expected exact or lagrangian, and exact without faithful and without a "
            "shape, which have a Lagrangian; leave it out"
        )
    return constraint != "lagrangian" and not lagrangian_only


def learning_rate_of_gates(learning_rate: float | None, *, exact: bool) -> float:
    """The learning rate of the gates.

    Raises:
        UserError: it is not above 0: the gates would never move.
    """
    return number("learning_rate", LEARNING_RATES[exact] if learning_rate is None else learning_rate, above=0.0)


def weight_of_evidence(evidence: float | None, *, exact: bool) -> float:
    """The weight of the evidence; without an exact constraint there is none.

    Raises:
        UserError: it is below 0 or not finite, or there is to be one with a Lagrangian.
    """
    weight = number("evidence", EVIDENCE * exact if evidence is None else evidence, least=0.0)
    if weight and not exact:
        raise UserError(
            f"evidence is {evidence!r}: expected it with an exact constraint, by which gates compete: set "
            "constraint=exact, or leave evidence out"
        )
    return weight
