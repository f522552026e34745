"""Which versions of the libraries are installed, which ones secateur allows, and which ones its tests run with.

Nothing is imported: everything is read from the metadata of the packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from secateur.system.tested_versions import TESTED

PACKAGE = "secateur"


@dataclass(frozen=True)
class Library:
    """A library that secateur uses.

    Attributes:
        name: of the distribution.
        found: the installed version; None if it is not installed.
        allowed: such as ">=2.6"; empty if every version is, or if that is not known.
        tested: the version that the tests run with; None if that is not recorded.
        extra: the extra of secateur that installs it; empty if secateur needs it.
    """

    name: str
    found: str | None
    allowed: str
    tested: str | None
    extra: str

    @property
    def fits(self) -> bool | None:
        """Whether the version found is one that is allowed; None if the library is not installed."""
        return None if self.found is None else SpecifierSet(self.allowed).contains(self.found, prereleases=True)

    @property
    def is_tested(self) -> bool:
        """Whether it is the version of the tests; the build, such as `+cpu`, does not matter."""
        return self.found is not None and self.found.partition("+")[0] == self.tested


def libraries() -> list[Library]:
    """The libraries whose tested version is recorded, in alphabetical order."""
    allowed = _requirements()
    return [
        Library(name, version_of(name), str(requirement.specifier), tested, extra)
        for name, tested in TESTED.items()
        for requirement, extra in [allowed.get(name, (Requirement(name), ""))]
    ]


def version_of(name: str) -> str | None:
    """The version of an installed distribution; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> dict[str, tuple[Requirement, str]]:
    """Name -> what secateur requires of it, and the first extra that does; nothing where secateur is not installed."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[Requirement, str]] = {}
    for requirement in map(Requirement, lines):
        extra = str(requirement.marker).partition('extra == "')[2].rstrip('"') if requirement.marker else ""
        if extra != "dev":
            found.setdefault(requirement.name, (requirement, extra))
    return found
