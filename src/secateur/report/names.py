"""Names of models and data on pages and cards, which are read on other machines, where a path leads nowhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.tasks.splits import is_path


def shown(name: str, paths: Collection[str] | None = None) -> str:
    """A name on the hub as it is; of a file or folder only the last part.

    Args:
        paths: the names that may be on the hub, and are files or folders (`paths_in`); None asks the disk.
    """
    there = Path(name).exists() if paths is None else name in paths
    return Path(name).name or name if there or is_path(name) else name


def paths_in(values: Any) -> list[str]:
    """Those of the plain values, such as a recipe's, that have the form "owner/name" and are files or folders here."""
    if isinstance(values, Mapping):
        values = [*values.values()]
    if isinstance(values, list | tuple):
        return list(dict.fromkeys(path for value in values for path in paths_in(value)))
    return [values] if isinstance(values, str) and values.count("/") == 1 and Path(values).exists() else []


def told_apart(names: Sequence[str]) -> list[str]:
    """Names on the hub as they are; of paths the fewest last parts by which all names differ."""
    paths = [Path(name).parts for name in names]
    lengths = range(1, max(map(len, paths), default=0) + 1)
    fewest = next((n for n in lengths if len({path[-n:] for path in paths}) == len({*paths})), 1)
    return [
        name if shown(name) == name else str(Path(*path[-fewest:])) for name, path in zip(names, paths, strict=True)
    ]


def without_paths(values: Any, paths: Collection[str] | None = None) -> Any:
    """Plain values, such as a recipe, in which every path is shortened to its last part.

    Args:
        paths: as of `shown`.
    """
    known = paths_in(values) if paths is None else paths
    if isinstance(values, Mapping):
        return {key: without_paths(value, known) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_paths(value, known) for value in values]
    return shown(values, known) if isinstance(values, str) else values
