"""The files of a model folder that are published, checked before any of them leaves this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.deploy.card_metadata import OWN_TAGS, RELATION, header_in, kind_of, with_keys
from secateur.deploy.machine_paths import SUFFIXES, paths_in
from secateur.deploy.served_files import served_files
from secateur.surgery import compact
from secateur.surgery.hub import may_be_on_hub
from secateur.surgery.opening import model_folder, open_model
from secateur.system.errors import UserError

CARD = "README.md"
LEFT_OUT = (
    ".*", "__pycache__", "*.partial", "training_args.bin", "pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl",
    "*.pickle",
)  # fmt: skip
"""Names of files and folders that are not published: hidden ones, unfinished ones, and pickles, which run code."""
PLACEHOLDER = "path/to/this/folder"
"""What a card says in place of the model's name, until it has one."""
LOADED = re.compile(r'secateur\.load\("([^"\n]+)"\)')
"""The line of the card of a run that loads the model, by `PLACEHOLDER` or by the name that the recipe gave."""
NAMED = {
    "base_model": re.compile(r"^- base model: `([^`\n]+)`", re.MULTILINE),
    "datasets": re.compile(r"^- data: `([^`\n]+)`", re.MULTILINE),
}
"""Key of a card's header -> the line of the card of a run that names it."""
SUMMARY = re.compile(r"`([^`\n]+)`, fine-tuned for `([^`\n]+)`")
"""What the first sentence of the card of a run says, the values of `NAMED` in their order."""


@dataclass(frozen=True)
class Stated:
    """What the user says about a model that its card may not know; None where nothing is said.

    Attributes:
        base_model, dataset: names on the hub.
        license: as the hub abbreviates it, such as apache-2.0.
    """

    base_model: str | None = None
    dataset: str | None = None
    license: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """By the keys of a card's header."""
        given = {"base_model": self.base_model, "datasets": self.dataset, "license": self.license}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class UploadSet:
    """The files that are published.

    Attributes:
        files: path in the repository -> a file, or its content where that is changed for the hub.
        header: of the card, as the hub will read it.
        left_out: paths in the folder that are not published.
    """

    files: Mapping[str, Path | bytes]
    header: Mapping[str, Any]
    left_out: tuple[str, ...]

    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def upload_set(folder: Path, name: str, *, stated: Stated, onnx: Path | None, on_main: bool) -> UploadSet:
    """The files of a model folder or of a finished run, with the card made ready for the hub.

    Args:
        name: of the repository; in the code of the card it takes the place of `PLACEHOLDER` or of another name.
        onnx: a folder of `export_folder`, whose graphs are added, and whose tokenizer takes the place of the model's.
        on_main: whether the name alone leads to these files, so that the card can show it.

    Raises:
        UserError: the model cannot be loaded, or a file is not what was saved; there is no card, or it contradicts what
            is stated; there are no weights in safetensors; a text has a path of this machine; the export was made from
            another model.
    """
    folder = model_folder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give that of a model, or of a finished run")
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} has no {CARD}, the card that says what a model is: write one, then publish")
    _check_stated(stated)
    model = open_model(folder)
    found, left_out = _found(folder)
    if not any(place.endswith(".safetensors") and "/" not in place for place in found):
        raise UserError(f"{folder} has its weights in a pickle, which is not published: save it by save_pretrained")
    given: dict[str, Path | bytes] = {} if onnx is None else served_files(onnx, folder, model)
    text = _card(folder / CARD, model, stated, name if on_main else PLACEHOLDER)
    files: dict[str, Path | bytes] = {**found, **given, CARD: text.encode()}
    if compact.SUMS in found:
        files[compact.SUMS] = _sums(found[compact.SUMS], {**given, CARD: text.encode()}, given)
    for place, content in files.items():
        if place != CARD and place.endswith(SUFFIXES):
            _check_paths(place, _bytes(content).decode("utf-8", errors="replace"))
    header = header_in(text, CARD)
    _check_sources(header)
    return UploadSet(dict(sorted(files.items())), header, left_out)


def _check_stated(stated: Stated) -> None:
    for what, name in (("--base-model", stated.base_model), ("--dataset", stated.dataset)):
        if name is not None and not may_be_on_hub(name):
            raise UserError(f"{what} expects a name on the hub, such as org/name, got {name!r}")


def _found(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Path in the repository -> file, and the paths that are left out."""
    every = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    out = {place for place in every if any(fnmatch(part, glob) for part in place.parts for glob in LEFT_OUT)}
    files = {place.as_posix(): path for place, path in every.items() if place not in out}
    return files, tuple(sorted(place.as_posix() for place in out))


# The card


def _card(path: Path, model: PreTrainedModel, stated: Stated, name: str) -> str:
    """The card with what its header lacks, the names on the hub, and the name by which the model is loaded."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it so") from error
    text = _with_names(text, stated)
    if loaded := LOADED.search(text):
        text = text.replace(f'"{loaded[1]}"', f'"{name}"')
    text = text.replace(PLACEHOLDER, name)
    header = header_in(text, str(path))
    _check_agreement(header, stated, path)
    _check_paths(CARD, text)
    return with_keys(text, _missing(header, model, stated))


def _with_names(text: str, stated: Stated) -> str:
    """The card of a run with the names on the hub that are stated, in place of those of files and folders here."""
    old = {key: line[1] for key, pattern in NAMED.items() if (line := pattern.search(text))}
    new = {key: value for key, value in stated.keys.items() if key in old}
    if "datasets" in new:  # of the numbers in the header
        numbers = rf"(\bname: ){re.escape(old['datasets'])}(\r?\n *type: )unknown\b"
        text = re.sub(numbers, lambda found: found[1] + new["datasets"] + found[2] + new["datasets"], text)
    if len({*old.values()}) == len(old):
        return _renamed(text, {old[key]: value for key, value in new.items()})
    for key, value in new.items():  # model and data have one name: only where it is clear which of them is meant
        if line := NAMED[key].search(text):
            text = text[: line.start(1)] + value + text[line.end(1) :]
    names = [new.get(key, name) for key, name in old.items()]
    return SUMMARY.sub(lambda found: "`{}`, fine-tuned for `{}`".format(*names), text, count=1)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A card with new names for old ones; a path, which the cards of secateur 0.1.0 have, wherever it stands."""
    patterns = (
        rf"{re.escape(old)}(?![\w/-])" if Path(old).is_absolute() else f"(?<=`){re.escape(old)}(?=`)" for old in names
    )
    return re.sub("|".join(patterns), lambda found: names[found[0]], text) if names else text


def _check_agreement(header: Mapping[str, Any], stated: Stated, path: Path) -> None:
    for key, value in stated.keys.items():
        own = header.get(key)
        if own is not None and value not in ([own] if isinstance(own, str) else own):
            raise UserError(f"{path} has {key} {own!r}, and {value!r} was given: correct the card, or leave it out")


def _missing(header: Mapping[str, Any], model: PreTrainedModel, stated: Stated) -> dict[str, Any]:
    """The keys that a card lacks, as far as they are known."""
    kind, pruned = kind_of(model, header.get("pipeline_tag")), isinstance(model, compact.Pruned)
    known: dict[str, Any] = {"library_name": kind.library, "pipeline_tag": kind.task, **stated.keys}
    known["tags"] = [*(OWN_TAGS if pruned else ()), *kind.tags]
    if isinstance(known.get("datasets"), str):
        known["datasets"] = [known["datasets"]]
    if "base_model" in {**header, **known}:
        known["base_model_relation"] = RELATION
    return {key: value for key, value in known.items() if value and key not in header}


def _check_sources(header: Mapping[str, Any]) -> None:
    """Refuse a card whose sources are not on the hub.

    Raises:
        UserError: with the option or the key to correct.
    """
    for key in ("base_model", "datasets"):
        own = header.get(key) or []
        for name in [own] if isinstance(own, str) else own:
            if not may_be_on_hub(str(name)):
                raise UserError(f"{CARD} has {key} {name!r}, which is no name on the hub: correct it, or leave it out")


# Checks of what goes up


def _sums(path: Path, changed: Mapping[str, Path | bytes], added: Iterable[str]) -> bytes:
    """`SHA256SUMS` with the digests of the files that are published in place of those it lists, and of new ones.

    Args:
        changed: path in the repository -> a file, or its content.
        added: paths among these, which are listed too unless they are in a folder, as graphs are: without it a download
            is whole to PyTorch, and a file that is listed must be there.
    """
    lines, listed = [], set()
    for line in path.read_text(encoding="utf-8").splitlines():
        listed.add(name := line.partition("  ")[2])
        lines.append(line if (content := changed.get(name)) is None else _sum(name, content))
    lines += [_sum(name, changed[name]) for name in added if name not in listed and "/" not in name]
    return "".join(f"{line}\n" for line in lines).encode()


def _sum(name: str, content: Path | bytes) -> str:
    return f"{hashlib.sha256(_bytes(content)).hexdigest()}  {name}"


def _bytes(content: Path | bytes) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _check_paths(name: str, text: str) -> None:
    """Refuse a text with a path of this machine."""
    for line, path in paths_in(name, text):
        advice = "give --base-model and --dataset, or write" if name == CARD else "write"
        raise UserError(
            f"{name}, line {line}, has a path of this machine, {path}: {advice} a name there that others know"
        )
