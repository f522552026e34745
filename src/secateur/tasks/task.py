"""The contract of a task: data, head and metric.

A new kind of task is a subclass of `Task` in a file of its own. It reads its data with `splits.read_splits`, so that
every kind takes data in the same forms: a name on the hub, a folder, a file, or the embedded demo corpus.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import (
    AutoConfig,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.system.errors import UserError, as_user_error
from secateur.tasks import TASKS
from secateur.tasks.splits import is_path, listed

EXAMPLE = "example"
"""The column of encoded rows that says which row of the split each is of, where a task makes several of one."""

SHARED = ("data", "text", "label", "metric", "seed", "rows")
"""What the `from_data` of every task may take; a recipe has keys for these."""

UNLABELLED = -100
"""The label that losses of transformers leave out, and what Trainer fills up shorter rows of tokens with."""


class PaddingCollator(DataCollatorWithPadding):
    """Pads model inputs and labels; leaves out `length`, which is for the sampler."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([{k: v for k, v in row.items() if k != "length"} for row in features])


class Task(ABC):
    """Data, head and metric of one kind of job.

    Attributes:
        name: what the kind is registered as.
        model_class: the `AutoModelFor...` class of transformers that carries the head.
        collator_class: pads the rows that `encode` makes.
        label_names: what of a batch are labels, by the names that the model takes them under.
        defaults: keys of a recipe that names this task, where the recipe says nothing.
        greater_is_better: whether a larger `metric` is better.
        generates: whether what is scored is what a model writes (`generate`), not its outputs for a row.
        augmentable: whether a teacher may label a row whose words were dropped, swapped or cropped.
        splits: "train" and "validation", narrowed to the columns in use.
        labels: the names of the head's outputs, in order; None where they have no names.
        metric: the main score, a key of what `compute_metrics` returns.
    """

    name: ClassVar[str]
    model_class: ClassVar[Any]
    collator_class: ClassVar[type[PaddingCollator]] = PaddingCollator
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    defaults: ClassVar[Mapping[str, Any]] = {}
    greater_is_better: ClassVar[bool] = True
    augmentable: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    splits: DatasetDict
    labels: tuple[str, ...] | None
    metric: str

    @classmethod
    @abstractmethod
    def from_data(cls, data: str, *, metric: str | None, seed: int, rows: int | None) -> Task:
        """Read `data` and recognise what it holds; `rows` keeps that many training rows, drawn by `seed`."""

    @abstractmethod
    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """The split as model inputs and labels, unpadded, with each row's number of tokens as `length`."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score of the task by name, `metric` among them."""

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The scores that are reported: as `compute_metrics`, for a task that knows more of its rows than `labels`.

        Args:
            prediction: as `read`, in the order of `rows`.
            rows: what `encode` made of a split, row by row.
        """
        return self.compute_metrics(prediction)

    def generate(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tokens that a model in evaluation mode writes for a batch without labels, `(batch, tokens)`."""
        raise NotImplementedError(f"{type(self).__name__} generates: write generate(model, inputs)")

    def read(self, prediction: EvalPrediction, tokenizer: PreTrainedTokenizerBase) -> EvalPrediction:
        """What the scores are taken of: as the model said it, or the texts of the tokens that it wrote.

        Args:
            prediction: outputs, or tokens and labels `(rows, tokens)` where the task `generates`; -100 is none.
            tokenizer: the model's.
        """
        return prediction

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
        return self.collator_class(tokenizer)

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
        with as_user_error(f"{source} cannot be loaded", "give one written by save_pretrained"):
            model, loading = self.model_class.from_pretrained(name_or_path, **options)
        _check_complete(model, loading["missing_keys"], has_head, source)
        return model

    def is_finetuned(self, model_or_folder: PreTrainedModel | str | Path) -> bool:
        """Whether a checkpoint has a head for this kind of task already, with this task's number of labels.

        Raises:
            UserError: the folder holds no checkpoint.
        """
        config = config_of(model_or_folder)
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
        if self.labels is None:
            return
        theirs, ours = _label_names(model.config), self.labels
        named = not (_only_count(theirs) or _only_count(ours))
        odd = [pair for pair in zip(theirs, ours, strict=True) if pair[0].casefold() != pair[1].casefold()]
        if named and odd:
            raise UserError(
                f"the {role} has the labels {listed(theirs)}, and the data has {listed(ours)} (the first to differ are "
                f"{odd[0][0]!r} and {odd[0][1]!r}): give a {role} made for the data's labels, in the same order"
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


def examples(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places in `rows` of what belongs to one example, in order of its first: one alone without `EXAMPLE`."""
    found: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(row.get(EXAMPLE, place), []).append(place)
    return list(found.values())


def check_length(max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse rows of more tokens than the model takes.

    Raises:
        UserError: `max_length` is more than the tokenizer's limit.
    """
    limit = tokenizer.model_max_length
    if max_length > limit:
        raise UserError(f"max_length is {max_length}: give at most {limit}, which the model takes")


def open_task(name: str, data: str, options: Mapping[str, Any], **given: Any) -> Task:
    """The task of that name on `data`, with options of its own: what its `from_data` takes beside what all do.

    Raises:
        UserError: there is no such task, or it has no such option; and whatever `from_data` raises.
    """
    kind = TASKS.get(name)
    known = [key for key in signature(kind.from_data).parameters if key not in SHARED]
    for key in options:
        if key not in known:
            raise UserError(f"task {name!r} has no option {key!r}: it has {', '.join(known) or 'none'}")
    return kind.from_data(data, **given, **options)


def config_of(model_or_folder: PreTrainedModel | str | Path) -> PreTrainedConfig:
    """The config of a model, or of a checkpoint.

    Raises:
        UserError: the folder holds no checkpoint.
    """
    return model_or_folder.config if isinstance(model_or_folder, PreTrainedModel) else _read_config(model_or_folder)


def _read_config(name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
    source = f"model {str(name_or_path)!r}"
    if is_path(name_or_path) and not Path(name_or_path).exists():
        raise UserError(f"{source} is not there: give an existing folder, or a name on the hub")
    with as_user_error(f"{source} cannot be read", "give a checkpoint's folder or a name on the hub"):
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
    return f"{len(labels)} labels" + ("" if _only_count(labels) else f" ({listed(labels)})")


def _label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(name for _, name in sorted((config.id2label or {}).items()))


def _only_count(labels: Sequence[str]) -> bool:
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(labels))
