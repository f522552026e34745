"""Names that have changed: the one warning that tells code so, and the version from which the old name may be gone."""

from __future__ import annotations

import warnings

MINORS = 2
"""A name that a version deprecates works in that minor version and in the next one: 0.2.0 and 0.3, until 0.4.0."""


def gone_in(since: str) -> str:
    """The first version that may lack a name which `since` has deprecated.

    >>> gone_in("0.2.0")
    '0.4.0'
    """
    major, minor, _ = map(int, since.split("."))
    return f"{major}.{minor + MINORS}.0"


def deprecated(old: str, new: str, *, how: str = "is now", since: str = "0.2.0", frames: int = 1) -> None:
    """Warn that a name has changed, and until when the old one works.

    Args:
        old: the name that was used, as one writes it.
        new: what to write instead.
        how: the words between them: "is now" for a name, "has moved to" for a module, "is deprecated:" for advice.
        since: the version that deprecates it.
        frames: number of calls between the code that uses the name and the function that calls this one.
    """
    message = f"{old} {how} {new}; the old form works until version {gone_in(since)}"
    warnings.warn(message, DeprecationWarning, stacklevel=frames + 2)
