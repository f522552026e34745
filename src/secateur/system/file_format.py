"""The versions of the files that secateur writes: every file names its own, and files of older versions are read.

    FORMAT = FileFormat(2, {1: with_new_names})   # version 2, and what makes the values of version 1 those of version 2
    FORMAT.write(path, values)                    # with the key "version" before the values
    FORMAT.read(path)                             # the values as version 2 has them, whichever version wrote them

A file without a version is of version 1: secateur 0.1.0 wrote most files so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.system.errors import UserError
from secateur.system.files import atomic_write, read_json

VERSION = "version"
"""The key of a file's version."""


class NewerVersion(UserError):
    """A file has a version that is not read: a later version of secateur wrote it, or there is no such version."""


@dataclass(frozen=True)
class FileFormat:
    """The version in which a kind of file is written, and how older versions are read.

    Attributes:
        version: the version that is written, and the newest that is read.
        upgrades: an older version -> makes its values those of the next version; a version that is missing here has
            the same values as the next one.
    """

    version: int = 1
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)

    def stamped(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a file, with its version before them."""
        return {VERSION: self.version, **values}

    def current(self, values: Any, source: Path | str) -> dict[str, Any]:
        """The values of a file of any version as this version has them, without the version.

        Args:
            source: the file, as it is called in an error.

        Raises:
            NewerVersion: the version is later than this one, or none.
            UserError: these are no values by keys.
        """
        if not isinstance(values, dict):
            raise UserError(f"{source} is damaged: expected an object with keys, not {type(values).__name__}")
        version = values.get(VERSION, 1)
        self.check(version, source)
        values = {key: value for key, value in values.items() if key != VERSION}
        for older in range(version, self.version):
            values = self.upgrades.get(older, dict)(values)
        return values

    def check(self, version: Any, source: Path | str) -> None:
        """Check that a version is one of those that are read.

        Raises:
            NewerVersion: it is not.
        """
        whole = type(version) is int and version >= 1
        if not whole or version > self.version:
            advice = "update secateur" if whole else "copy or write it again"
            raise NewerVersion(
                f"{source} has version {version!r}, and this secateur reads 1 to {self.version}: {advice}"
            )

    def write(self, path: Path | str, values: Mapping[str, Any]) -> None:
        """Write a JSON file atomically, indented by one space; its folder is made if it is missing.

        Raises:
            UserError: it cannot be written.
        """
        atomic_write(path, json.dumps(self.stamped(values), indent=1) + "\n")

    def read(self, path: Path | str) -> dict[str, Any]:
        """The values of a JSON file of this version or an older one, as this version has them.

        Raises:
            UserError: the file is damaged, or a later version wrote it.
            OSError: it is missing or cannot be read.
        """
        return self.current(read_json(path), path)

    def read_if_any(self, path: Path) -> dict[str, Any]:
        """As `read`; no values if the file is missing."""
        return self.read(path) if path.is_file() else {}

    def merge(self, path: Path, values: Mapping[str, Any]) -> None:
        """Set keys of a small JSON file; the file and its folder are created if they are missing."""
        self.write(path, self.read_if_any(path) | dict(values))

    def append(self, path: Path, values: Mapping[str, Any]) -> None:
        """Append a line of JSON to a log; each line has the version, because an older one may have begun the log.

        A reader must expect the last line to be incomplete after a crash.
        """
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.stamped(values)) + "\n")
