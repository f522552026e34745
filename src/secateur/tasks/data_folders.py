"""Folders of files: which files make up which split."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset

from secateur.system.errors import UserError
from secateur.tasks.class_files import check_no_classes
from secateur.tasks.columns import listed
from secateur.tasks.data_files import READERS, form, read_files, read_parallel, uncompressed

Part = Callable[[], Dataset]  # reads one split when it is needed: a folder may hold files of other kinds

SIDE = re.compile(r"[a-z]{2,3}([_-][A-Za-z]{2,4})?|source|target")
"""The suffix of a file of parallel lines: a language, or the side of its texts."""
PIECE = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?$")
"""The end of the name of a file that holds a piece of a split, as on the hub: its number and how many there are."""
SHARD = re.compile(r"(.*?)[-_.]?(\d{1,5})(-[0-9a-f]{8}-.*)?")
"""The name of a file that may be a piece of a split, without the number of pieces: train_0, train-1, part-0, 0000.

Its parts are the name of the split, the number, and what Spark writes after it."""
PAIR = re.compile(r"\.[a-z]{2,3}-[a-z]{2,3}$")
"""The pair of languages in the name of a file of parallel lines, such as train.de-en.de."""
METADATA = ("dataset_infos.json", "dataset_info.json")
"""Files of the library `datasets` that describe data."""


def file_part(path: Path) -> Part:
    """The split of one file, and of the files beside it that hold parallel lines, such as train.de beside train.en."""
    if form(path) in READERS and form(path) != ".txt":
        return partial(read_files, [path])
    own = _side(path)
    beside = _parallel([other for other in sorted(path.parent.iterdir()) if own and _side(other)])
    return beside[own[0]] if own and own[0] in beside else partial(read_files, [path])


def folder_parts(folder: Path, splits: Sequence[str]) -> dict[str, Part]:
    """The splits of a folder by name; none if no file in it can be read.

    A split is a file, several pieces of one, numbered files, files of parallel lines, or a folder with its name. If
    the files are all in one inner folder ("data", or the name of a configuration on the hub), it is read in place of
    its parent.

    Args:
        folder: with files.
        splits: the usual names of splits, which inner folders may have.

    Raises:
        UserError: several inner folders hold data, or files of text lie by class.
    """
    parts = _parts([path for path in sorted(folder.iterdir()) if path.is_file()], splits)
    if not parts.keys() & {*splits}:
        check_no_classes(folder, splits)
    return parts or _inner_parts(folder, splits)


def _parts(paths: Sequence[Path], splits: Sequence[str]) -> dict[str, Part]:
    parallel = _parallel(paths)
    files: dict[str, list[Path]] = {}
    for path in paths:
        own = _side(path)
        if form(path) in READERS and path.name not in METADATA and not (own and own[0] in parallel):
            files.setdefault(PIECE.sub("", uncompressed(path).stem), []).append(path)
    shards = _shards(files, splits)
    return (
        parallel
        | {name: partial(read_pieces, pieces) for name, pieces in _unversioned(files).items()}
        | {name: partial(_read_shards, pieces) for name, pieces in shards.items()}
    )


def _shards(files: dict[str, list[Path]], splits: Sequence[str]) -> dict[str, list[tuple[int, Path]]]:
    """The splits in numbered files, which are taken out of `files`: the number and the path of each file.

    Numbers begin at 0 or 1; others may be years. Where no file has the name of a split, numbered files of one name,
    such as part-0, are training rows.
    """
    numbered = {name: match for name in files if (match := SHARD.fullmatch(name))}
    members: dict[str, list[str]] = {}
    for name, match in numbered.items():
        members.setdefault(match[1], []).append(name)
    chosen = {name: own for name, own in members.items() if name in splits and name not in files}
    if len(numbered) == len(files) and len(members) == 1 and not any(map(next(iter(members)).startswith, splits)):
        chosen = {splits[0]: next(iter(members.values()))}
    chosen = {name: own for name, own in chosen.items() if min(int(numbered[one][2]) for one in own) < 2}
    return {
        name: [(int(numbered[one][2]), path) for one in own for path in files.pop(one)] for name, own in chosen.items()
    }


def _read_shards(shards: Sequence[tuple[int, Path]]) -> Dataset:
    """The rows of a split in numbered files, in the order of their numbers.

    Raises:
        UserError: as `read_files`, or a number between the first and the last is missing or occurs twice.
    """
    numbers, folder = sorted(number for number, _ in shards), shards[0][1].parent
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{folder} has several files of one number beside {shards[0][1].name}: keep one of them")
    if missing := set(range(numbers[0], numbers[-1])) - set(numbers):
        raise UserError(f"{folder} lacks the file number {min(missing)} beside {shards[0][1].name}: add it")
    return read_files([path for _, path in sorted(shards)])


def read_pieces(paths: Sequence[Path]) -> Dataset:
    """The rows of one split.

    Raises:
        UserError: as `read_files`, or a piece of the split is missing or has several versions.
    """
    found = [piece for path in paths if (piece := PIECE.search(uncompressed(path).stem))]
    numbers, counts = [int(piece[1]) for piece in found], {int(piece[2]) for piece in found}
    if len(counts) > 1 or len(set(numbers)) < len(numbers):
        raise UserError(f"{paths[0].parent} has several versions of the pieces of {paths[0].name}: keep one of them")
    if missing := sorted(set(range(max(counts, default=0))) - set(numbers)):
        raise UserError(
            f"{paths[0].parent} lacks piece {missing[0]}, counted from 0, of the split of {paths[0].name}: add it, or "
            "merge the others into one file to use them alone"
        )
    return read_files(paths)


def _parallel(paths: Sequence[Path]) -> dict[str, Part]:
    """The splits whose columns are files of parallel lines: those of which there are at least two."""
    sides: dict[str, dict[str, list[Path]]] = {}
    for path in paths:
        if own := _side(path):
            sides.setdefault(own[0], {}).setdefault(own[1], []).append(path)
    return {name: partial(read_parallel, columns) for name, columns in sides.items() if len(columns) > 1}


def _side(path: Path) -> tuple[str, str] | None:
    """The names of the split and of the side of parallel lines (train.en, train.en.txt, train.en.gz); None if not."""
    plain = uncompressed(path)
    plain = plain.with_suffix("") if plain.suffix.lower() == ".txt" else plain
    side = plain.suffix.removeprefix(".")
    return (PAIR.sub("", plain.stem), side) if SIDE.fullmatch(side) and f".{side}" not in READERS else None


def _unversioned(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Names of splits without the version in SQuAD's file names (train-v2.0.json), unless two differ only by it."""
    plain = {name: re.sub(r"-v\d+(\.\d+)*$", "", name) for name in files}
    names = list(plain.values())
    return {plain[name] if names.count(plain[name]) == 1 else name: paths for name, paths in files.items()}


def _inner_parts(folder: Path, splits: Sequence[str]) -> dict[str, Part]:
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    pieces = {path.name: paths for path in inner if (paths := _rows_in(path))}
    if pieces.keys() & {*splits}:
        return {name: partial(read_pieces, paths) for name, paths in pieces.items()}
    found = {path.name: parts for path in inner if (parts := folder_parts(path, splits))}
    if len(found) > 1:
        raise UserError(f"{folder} holds several sets of data ({listed(list(found))}): give the folder of one of them")
    return next(iter(found.values()), {})


def _rows_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and form(path) in READERS]
