"""Check that the files of a compact folder are those that were saved: `SHA256SUMS`, and no links out of the folder.

`SHA256SUMS` lists the digests of the files, in the format of `sha256sum`: shapes alone do not reveal a flipped bit, the
weights of another model or an edited key. Every `save_pretrained` writes it. It is optional: of a folder without it
only the shapes are checked.

The labels in `config.json` are their user's to rename. So the digest of that file is of its values without `FREE`, in a
comment that `sha256sum` passes over. Secateur 0.1.0 listed the file itself, which is still checked so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

CARD = "README.md"
CONFIG = "config.json"
PLAN = "plan.json"
GENERATION = "generation_config.json"
SUMS = "SHA256SUMS"
FREE = ("_name_or_path", "id2label", "label2id")
"""Keys of `config.json` that name things for people and change no output."""
SUM = re.compile(r"([0-9a-f]{64})  ([^\\:]+)")  # a line: a digest, two spaces, the path of a file in the folder
SUM_OF_VALUES = re.compile(rf"# ([0-9a-f]{{64}})  ({re.escape(CONFIG)}) without (\w+(?:, \w+)*)")


class DamagedError(ValueError):
    """A folder is not what was saved. The message is one sentence: which file, what is wrong, and what to do."""


class Listed(NamedTuple):
    """A line of `SHA256SUMS`.

    Attributes:
        name: of a file in the folder, with its subfolder if it is in one.
        digest: SHA-256 of the file, or of its values without some keys.
        free: those keys; None if the digest is of the file's bytes.
    """

    name: str
    digest: str
    free: tuple[str, ...] | None = None

    def is_right(self, folder: Path) -> bool:
        """Whether the file has this digest."""
        path = folder / self.name
        return self.digest == (_digest(path) if self.free is None else _digest_of_values(path, self.free))


def sums(folder: Path, names: Iterable[str]) -> str:
    """Lines of `SHA256SUMS` for files of a folder."""
    return "".join(f"{_line(folder, name)}\n" for name in sorted(names))


def _line(folder: Path, name: str) -> str:
    if name == CONFIG:
        return f"# {_digest_of_values(folder / name, FREE)}  {name} without {', '.join(FREE)}"
    return f"{_digest(folder / name)}  {name}"


def check_sums(folder: Path) -> None:
    """Refuse a folder in which a file that `SHA256SUMS` lists is missing or has other bytes.

    Every file is read once: 0.05 s for 50 MB where the processor has instructions for SHA-256.

    Raises:
        DamagedError: the message names the file.
    """
    for listed in listed_files(folder):
        _check_sum(folder, listed)


def check_downloaded(folder: Path) -> None:
    """As `check_sums`, for a folder of the hub's cache: files that were not asked for are not in it."""
    for listed in listed_files(folder):
        if (folder / listed.name).is_file():
            _check_sum(folder, listed)


def listed_files(folder: Path) -> Iterator[Listed]:
    """The lines of `SHA256SUMS`, none without it.

    Raises:
        DamagedError: there are other lines in it.
    """
    if not (folder / SUMS).is_file():
        return
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    for line in text.removesuffix("\n").split("\n"):
        if match := SUM.fullmatch(line):
            yield Listed(match[2], match[1])
        elif match := SUM_OF_VALUES.fullmatch(line):
            yield Listed(match[2], match[1], tuple(match[3].split(", ")))
        else:
            raise DamagedError(
                f"{folder / SUMS} is damaged: expected lines as sha256sum writes them; copy or save the model again"
            )


def _check_sum(folder: Path, listed: Listed) -> None:
    path = folder / listed.name
    _check_place(folder, listed.name)
    if not path.is_file():
        raise DamagedError(f"{path} is missing, and {SUMS} lists it: copy the whole folder again")
    if not listed.is_right(folder):
        raise DamagedError(
            f"{path} is not the file that was saved: copy or save the model again, or remove its line "
            f"in {SUMS} if it was changed on purpose{'; labels may be edited anyway' if listed.free else ''}"
        )


def check_places(folder: Path) -> None:
    """Refuse a folder in which a link, or a name in JSON, leads to a file outside it.

    Links into `blobs` are allowed, because the hub's cache stores its files so, those of subfolders too.

    Raises:
        DamagedError: the message names the file.
    """
    for name in (CARD, CONFIG, GENERATION, PLAN, SUMS, *(path.name for path in folder.glob("*.safetensors*"))):
        _check_place(folder, name)
    for index in folder.glob("*.safetensors.index.json"):
        shards = read_object(index).get("weight_map")
        names = shards.values() if isinstance(shards, dict) else [None]
        if not all(isinstance(name, str) and PurePath(name).name == name for name in names):
            raise DamagedError(f"{index} names weights that are no files of its folder: copy or save the model again")


def _check_place(folder: Path, name: str) -> None:
    path, home = folder / name, Path(os.path.realpath(folder))
    real = Path(os.path.realpath(path))
    blobs = [parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots"]
    inside = real.is_relative_to(home) or real.parent in blobs
    if os.path.lexists(path) and not (inside and real.is_file()):
        raise DamagedError(f"{path} is no file of its folder: put the file itself there, not a link or a device")


def _digest(path: Path) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def _digest_of_values(path: Path, free: Iterable[str]) -> str:
    """The digest of an object in a file of JSON without some keys: as compact JSON in ASCII, its keys sorted."""
    values = {key: value for key, value in read_object(path).items() if key not in free}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file of JSON holds.

    Raises:
        DamagedError: the file holds anything else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}): expected JSON; copy or save the model again") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path} is damaged: expected an object of JSON; copy or save the model again")
    return data
