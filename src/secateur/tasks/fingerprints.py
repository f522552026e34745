"""Fingerprints of data: 12 hex digits that change if a column, a row or a label does, and only then.

They are written to disk and compared with those of older versions, so what they are computed from must not change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from datasets import Dataset, Image

from secateur.system.files import fingerprint
from secateur.tasks.image_files import FILE

TOGETHER = 1000
"""Rows that are written at a time."""


def of_splits(labels: Sequence[str] | None, splits: Mapping[str, Dataset]) -> str:
    """The fingerprint of splits, with their names and the order of their rows."""
    return fingerprint(_contents(labels, splits), digits=12)


def of_rows(labels: Sequence[str] | None, rows: Dataset) -> str:
    """The fingerprint of rows, whatever their order."""
    rows = _without_images(rows)
    batches = rows.iter(batch_size=TOGETHER)
    own = sorted(json.dumps(row) for batch in batches for row in zip(*batch.values(), strict=True))
    return fingerprint([json.dumps([labels, rows.column_names]), *own], digits=12)


def _contents(labels: Sequence[str] | None, splits: Mapping[str, Dataset]) -> Iterator[str]:
    yield json.dumps(labels)
    for name, split in zip(splits, map(_without_images, splits.values()), strict=True):
        yield json.dumps([name, split.column_names])
        yield from (json.dumps(batch) for batch in split.iter(batch_size=TOGETHER))


def _without_images(rows: Dataset) -> Dataset:
    """The rows with the digests of images alone, which are a column beside them: where files lie does not matter."""
    images = [name for name, feature in rows.features.items() if feature == FILE or isinstance(feature, Image)]
    return rows.remove_columns(images) if images else rows
