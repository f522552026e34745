"""Optional packages: whether they are installed, and the extra of secateur that installs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from secateur.system.errors import MissingPackage


def require(packages: Sequence[str], extra: str) -> None:
    """Check that packages of an optional extra are installed.

    Args:
        packages: by their names for import.
        extra: of secateur, which installs them.

    Raises:
        MissingPackage: with the command that installs them.
    """
    if missing := absent(packages):
        raise MissingPackage(f"{' and '.join(missing)} is not installed: run pip install 'secateur[{extra}]'")


def absent(packages: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]
