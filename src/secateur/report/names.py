"""Names of models and data on pages and cards, which are read on other machines, where a path leads nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.tasks.splits import is_path


def shown(name: str) -> str:
    """A name on the hub as it is; of a file or folder only the last part."""
    return Path(name).name or name if Path(name).exists() or is_path(name) else name


def told_apart(names: Sequence[str]) -> list[str]:
    """Names on the hub as they are; of paths the fewest last parts by which all names differ."""
    paths = [Path(name).parts for name in names]
    lengths = range(1, max(map(len, paths), default=0) + 1)
    fewest = next((n for n in lengths if len({path[-n:] for path in paths}) == len({*paths})), 1)
    return [
        name if shown(name) == name else str(Path(*path[-fewest:])) for name, path in zip(names, paths, strict=True)
    ]


def without_paths(values: Any) -> Any:
    """Plain values, such as a recipe, in which every path is shortened to its last part."""
    if isinstance(values, Mapping):
        return {key: without_paths(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_paths(value) for value in values]
    return shown(values) if isinstance(values, str) and is_path(values) else values
