"""Data sets in repositories, as the library `datasets` reads them: on the hub, or in a local copy of one.

The README.md of a repository may begin with yaml that names, under `configs`, the files of each split of each
configuration. What the library finds is read as the data of other folders is: cells of csv files stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from datasets import (
    BuilderConfig,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
)

from secateur.system.errors import UserError
from secateur.tasks.cells import CELL
from secateur.tasks.columns import listed
from secateur.tasks.data_files import READERS, form, reading
from secateur.tasks.data_folders import Part, read_pieces

CARD = "README.md"
NEUTRAL = ("name", "version", "data_dir", "data_files", "description")
"""What a configuration may state without a change of how its files are read."""


def card_states(folder: Path, key: str) -> bool:
    """Whether the yaml at the beginning of a folder's README.md has a key."""
    card = folder / CARD
    if not card.is_file():
        return False
    begin, _, rest = card.read_text(encoding="utf-8-sig", errors="replace").partition("\n")
    yaml, end, _ = f"\n{rest}".partition("\n---")
    return begin.strip() == "---" and bool(end) and bool(re.search(rf"^{key}\s*:", yaml, re.MULTILINE))


def card_parts(folder: Path, config: str | None) -> dict[str, Part]:
    """The splits of a configuration that the card of a folder describes, each read when it is needed.

    Args:
        folder: with a card that has `configs`.
        config: the name of one of them; by default the only one, or the one that the card makes the default.

    Raises:
        UserError: the card cannot be read, or has several configurations and none is named, or none of that name.
    """
    path = str(folder)
    with _choosing(path, config), reading(path):
        stated = load_dataset_builder(path, config).config
    files = {split: [Path(file) for file in paths] for split, paths in (stated.data_files or {}).items()}
    if card_states(folder, "dataset_info") or not _is_plain(stated, files):
        return loaded_parts(load_repository(path, config))
    return {split: partial(read_pieces, paths) for split, paths in files.items()}


def load_repository(path: str, config: str | None, name: str | None = None) -> DatasetDict:
    """The splits of a data set on the hub, or in a folder with a card, read by the library `datasets`.

    Cells of csv files are text, as in `csv_files`; a column for which the card names classes has these.

    Args:
        path: on the hub, or a folder.
        config: the name of a configuration.
        name: what the user calls the data, for messages; by default the path.

    Raises:
        UserError: the data cannot be read, or has several configurations and none is named, or none of that name.
    """
    with _choosing(path, config), reading(name or path):
        loaded = load_dataset(path, config)
        split: Dataset = next(iter(loaded.values()))
        if split.info.builder_name != "csv":
            return loaded
        types = {name: feature if isinstance(feature, ClassLabel) else CELL for name, feature in split.features.items()}
        return load_dataset(path, config, features=Features(types), na_filter=False)


def loaded_parts(loaded: DatasetDict) -> dict[str, Part]:
    """The splits of data that is loaded."""
    return {name: partial(loaded.__getitem__, name) for name in loaded}


def _is_plain(stated: BuilderConfig, files: Mapping[str, list[Path]]) -> bool:
    """Whether the configuration only names files, all of which `data_files` reads."""
    forms = {form(path) for paths in files.values() for path in paths}
    default: Any = type(stated)()
    own = {field.name: getattr(default, field.name) for field in fields(default) if field.name not in NEUTRAL}
    if forms == {".tsv"}:
        own["sep"] = "\t"
    return forms <= READERS.keys() and all(getattr(stated, name) == value for name, value in own.items())


@contextmanager
def _choosing(path: str, config: str | None) -> Iterator[None]:
    """A context in which an error names the configurations of the data set, if it has several and none was chosen."""
    try:
        yield
    except UserError as error:
        names = _configs(path)
        if config in names or len(names) < 1 + (config is None):
            raise
        fault = "several configurations" if config is None else f"no configuration {config!r}"
        raise UserError(f"data {path!r} has {fault}: name one of {listed(names)}, as in {path}:{names[0]}") from error


def _configs(path: str) -> list[str]:
    """The names of the configurations of a data set; none if they cannot be found out."""
    try:
        return list(get_dataset_config_names(path))
    except Exception:  # the library raises many types; the error that led here is shown
        return []
