"""A file of a model that lies in a folder or on the hub, and what is said where the hub cannot be asked for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file, try_to_load_from_cache

INCOMPLETE: set[str] = set()
"""The models of the hub of which it was said that files may be missing."""


def file_of(name: Any, file: str, place: Mapping[str, Any]) -> Path | None:
    """A file of a folder, or of a model on the hub, which downloads it; None if there is none.

    It is None too where the cache has no such file and the hub cannot be asked for it. Then it may exist, which is said
    once for each model, unless the cache knows that it does not.

    Args:
        place: the arguments of `from_pretrained` that say where files lie.
    """
    try:
        found = cached_file(name, file, **place)
    except OSError as error:
        if isinstance(error.__cause__, FileNotFoundError) and not _known_to_be_absent(name, file, place):
            _say_incomplete(str(name), file)
        return None
    return None if found is None else Path(found)


def _known_to_be_absent(name: Any, file: str, place: Mapping[str, Any]) -> bool:
    """Whether the hub was asked for the file before, and had none."""
    path = "/".join(part for part in (place.get("subfolder"), file) if part)
    cache = {key: place[key] for key in ("cache_dir", "revision") if key in place}
    known = try_to_load_from_cache(str(name), path, **cache)
    return known is not None and not isinstance(known, str)


def _say_incomplete(name: str, file: str) -> None:
    if name not in INCOMPLETE:
        INCOMPLETE.add(name)
        logging.getLogger(__name__).warning(
            "%s has no %s in the cache, and the hub cannot be asked for it: all its files that are not in the cache "
            "count as absent, so open it once with a connection to the hub",
            name,
            file,
        )
