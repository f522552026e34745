"""Whether a score says more than a constant prediction, such as the commonest class, by its standard error."""

from __future__ import annotations

ERRORS = 2.0
"""Standard errors by which a score has to be better, which of scores by chance about one in forty is."""
BY_ERRORS = "by two standard errors"


def better_than(constant: float | None, score: float, error: float | None, greater_is_better: bool = True) -> bool:
    """Whether a score is better than that of the best constant prediction, by `ERRORS` of its standard errors.

    Args:
        constant: None where none is known: there every score is better, but where more is better only one above 0.
        error: the standard error of the score; None where it is not known, so that any difference counts.
    """
    margin = ERRORS * (error or 0.0)
    if greater_is_better:
        return score > (constant or 0.0) + margin
    return constant is None or score < constant - margin
