"""Options of a generation config without effect, such as a temperature of beam search.

Transformers saves a config that has some as it was loaded, and refuses to save one that was changed since. The pieces
that it names are renumbered when a vocabulary is cut; the options stay those that were published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOADED = "_original_object_hash"
"""Where a generation config has the hash of what was loaded."""


@contextmanager
def still_as_loaded(config: Any) -> Iterator[None]:
    """Let a config that is as it was loaded count as such after the changes of the block.

    Args:
        config: of a model or of its generation; that of a model has no such hash, and is left alone.
    """
    loaded = vars(config).get(LOADED)
    unchanged = loaded is not None and loaded == hash(config)
    yield
    if unchanged:
        setattr(config, LOADED, hash(config))
