"""The contract of a task (data, head and metric).

A new kind of task is a subclass of `Task` in a file of its own. It reads its data with `splits.read_splits`, so that
all kinds take data in the same forms: a name on the hub, a folder, a file, or the embedded demo corpus.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.structure.encoded_rows import EXAMPLE
from secateur.surgery.cross_encoders import with_settings
from secateur.surgery.loaded_weights import check_encoder, check_whole
from secateur.surgery.opening import with_padding
from secateur.system.errors import UserError, as_user_error
from secateur.system.load_report import without_load_report
from secateur.system.moved import moved_names
from secateur.tasks import TASKS
from secateur.tasks.checkpoint_labels import check_count, config_of, head_labels, read_config
from secateur.tasks.columns import listed, shown
from secateur.tasks.fingerprints import of_splits
from secateur.tasks.labels import HINT, only_numbered
from secateur.tasks.option_values import check_options
from secateur.tasks.origin import Origin, origin_of
from secateur.tasks.predictors import Predictor
from secateur.tasks.tokenizer_settings import check_padded

SHARED = ("data", "text", "label", "labels", "evaluation", "pooling", "metric", "seed", "rows")
"""Parameters that the `from_data` of any task may have; a recipe has keys of its own for these."""

_OPTION_OF = {"evaluation": "--eval"}
"""Shared parameter -> its option, where that has another name."""


class PaddingCollator(DataCollatorWithPadding):
    """Pads model inputs and labels; drops `length` and `EXAMPLE`, which models do not take."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([{k: v for k, v in row.items() if k not in ("length", EXAMPLE)} for row in features])


class Task(ABC):
    """Data, head and metric of one kind of task.

    Attributes:
        name: the name that the kind is registered by.
        model_class: the `AutoModelFor...` class of transformers that carries the head.
        collator_class: pads the rows that `encode` makes.
        label_names: the keys of a batch that are labels, as the model names them.
        defaults: keys of a recipe with this task, and their values if the recipe does not set them.
        greater_is_better: whether a larger `metric` is better.
        exports: whether models with the head run in other runtimes, as functions of tokens and a mask.
        generates: whether the metric scores texts that the model generates (`generate`), not its outputs for a row.
        evaluation_is_data: whether `data.evaluation` names data that is scored in place of the rows; if not, and the
            task takes it, it names one of their splits.
        lengths: whether inputs have different numbers of tokens.
        windows: whether a text that is longer than the maximum becomes several rows; otherwise it is truncated.
        packed: whether texts are joined, and divided into rows of the maximum, so that none is truncated.
        of_one_width: whether the main score needs outputs of the width of the reference's.
        predictor: how a model is asked for single texts; None if it cannot be.
        condensed: from outputs and labels of a batch, tensors or tuples of them, to what scores need of the outputs;
            None for all of them.
        recognises: whether a file or a folder can only be data of this kind, which then need not be named; None for no.
        augmentable: whether a teacher may label a row whose words were dropped, swapped or cropped.
        splits: "train" and "validation", with only the columns in use.
        labels: the names of the outputs of the head, in order; None if they have no names.
        metric: the main score, a key of what `compute_metrics` returns.
    """

    name: ClassVar[str]
    model_class: ClassVar[Any]
    collator_class: ClassVar[type[PaddingCollator]] = PaddingCollator
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    defaults: ClassVar[Mapping[str, Any]] = {}
    greater_is_better: ClassVar[bool] = True
    evaluation_is_data: ClassVar[bool] = False
    lengths: ClassVar[bool] = True
    windows: ClassVar[bool] = False
    packed: ClassVar[bool] = False
    of_one_width: bool = False
    condensed: ClassVar[Any] = None
    recognises: ClassVar[Callable[[Path], bool] | None] = None
    augmentable: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    exports: ClassVar[bool] = True
    predictor: ClassVar[Predictor | None] = None
    splits: DatasetDict
    labels: tuple[str, ...] | None
    metric: str
    __repr__ = shown

    @classmethod
    @abstractmethod
    def from_data(cls, data: str, *, metric: str | None, seed: int, rows: int | None) -> Task:
        """Read `data` and recognise what it holds; `rows` keeps that many training rows, sampled by `seed`."""

    @abstractmethod
    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """The split as model inputs and labels, unpadded, with each row's number of tokens as `length`."""

    def limits(self, max_length: int) -> dict[str, int]:
        """The keys of the tokens of an encoded row that `encode` truncates -> the most tokens, at this `max_length`."""
        return {"input_ids": max_length}

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score of the task by name, `metric` among them."""

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The reported scores, by default those of `compute_metrics`; a task may use other columns of its rows too.

        Args:
            prediction: as `read`, in the order of `rows`.
            rows: the encoded rows of a split (see `encode`).
        """
        return self.compute_metrics(prediction)

    def of_training_rows(self) -> Task:
        """The task that scores training rows that are held out, if these differ from the validation rows."""
        return self

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The `metric` of the best constant prediction for encoded rows; None if nothing constant is comparable."""
        return None

    def described(self) -> dict[str, str]:
        """What was recognised in the data, by name: by default the columns in use."""
        return {"columns": ", ".join(self.origin.columns or self.splits["train"].column_names)}

    @property
    def origin(self) -> Origin:
        """Where the splits come from, if `read_splits` has read them."""
        return origin_of(self.splits)

    def generate(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The tokens that a model in evaluation mode generates for a batch without labels, `(batch, tokens)`."""
        raise NotImplementedError(f"{type(self).__name__} generates: write generate(model, inputs)")

    def read(self, prediction: EvalPrediction, tokenizer: PreTrainedTokenizerBase) -> EvalPrediction:
        """What is scored: the outputs of the model, or the texts of the tokens that it generated.

        Args:
            prediction: outputs, or tokens and labels `(rows, tokens)` if the task `generates`; -100 is padding.
            tokenizer: the model's.
        """
        return prediction

    def head(self) -> dict[str, Any]:
        """Keys of the config of a model for this task, among them `num_labels` if the head has labels."""
        return {}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Pads encoded rows to the longest of their batch.

        Raises:
            UserError: the tokenizer has no padding token.
        """
        check_padded(tokenizer)
        return self.collator_class(tokenizer)

    def load_model(self, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
        """The checkpoint in float32 with a head for this task: the one it has, or a new one.

        A head with label names of its own keeps them; `check_labels` compares them with those of the data.

        Args:
            name_or_path: a folder written by `save_pretrained`, or a model's name on the hub.
            kwargs: passed on to `from_pretrained`; with `ignore_mismatched_sizes=True` a head of another size
                is replaced by a new one.

        Raises:
            UserError: there is no such checkpoint, it is incomplete or of another kind, has weights that the model does
                not take, or its head has another number of labels.
        """
        source = f"model {str(name_or_path)!r}"
        config = read_config(name_or_path, **kwargs)
        head = self.head()
        has_head = self._has_head(config) and not kwargs.get("ignore_mismatched_sizes")
        if has_head and "num_labels" in head:
            check_count(config, PreTrainedConfig(**head), source)
            if not only_numbered(head_labels(config)):
                head = {key: value for key, value in head.items() if key not in ("id2label", "label2id")}
        options = {"dtype": torch.float32, **head, **kwargs, "output_loading_info": True, "trust_remote_code": False}
        with without_load_report(), as_user_error(f"{source} cannot be loaded", "give one written by save_pretrained"):
            model, loading = self.model_class.from_pretrained(name_or_path, **options)
        (check_whole if has_head else check_encoder)(model, loading, source)
        model = with_padding(model, name_or_path)
        return with_settings(model, name_or_path) if has_head else model

    def is_finetuned(self, model_or_folder: PreTrainedModel | str | Path) -> bool:
        """Whether a checkpoint has a head for this kind of task already, with the right number of labels.

        Raises:
            UserError: the folder holds no checkpoint.
        """
        config = config_of(model_or_folder)
        expected = self.head().get("num_labels", config.num_labels)
        return self._has_head(config) and config.num_labels == expected

    def check_head(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> None:
        """Refuse a checkpoint without a head for this kind of task, which would get a random one.

        Raises:
            UserError: it has none; `role` ("teacher") says in the message which checkpoint it is.
        """
        config = config_of(model_or_folder)
        if not self._has_head(config):
            kind = listed(config.architectures or ["model of no stated class"])
            raise UserError(
                f"the {role} is a {kind}, which has no head for the task {self.name!r}: give one that is fine-tuned "
                "for it"
            )

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """The task with its labels as a checkpoint's head has them; a task without labels stays as it is.

        Args:
            model_or_folder: the checkpoint.
            role: whose labels they are in a message, such as "teacher".

        Raises:
            UserError: the labels do not fit the head.
        """
        return self

    def check_labels(self, model: PreTrainedModel, role: str) -> None:
        """Refuse a model whose labels differ from those of the data in number, name (ignoring case) or order.

        Names that are only numbers (LABEL_0, ... or 0, ...) agree with any names.

        Raises:
            UserError: they differ; `role` ("teacher") says in the message whose labels they are.
        """
        head = self.head()
        if "num_labels" not in head:
            return
        check_count(model.config, PreTrainedConfig(**head), f"the {role}")
        if self.labels is None:
            return
        theirs, ours = head_labels(model.config), self.labels
        named = not (only_numbered(theirs) or only_numbered(ours))
        odd = [pair for pair in zip(theirs, ours, strict=True) if pair[0].casefold() != pair[1].casefold()]
        if named and odd:
            raise UserError(
                f"the {role} has the labels {listed(theirs)}, and the data has {listed(ours)} (the first to differ are "
                f"{odd[0][0]!r} and {odd[0][1]!r}): {HINT}, or give a {role} made for these labels"
            )

    def fingerprint(self, *splits: str) -> str:
        """12 hex digits that change if any column, row or label of the splits does, or their order, and only then.

        Args:
            splits: by default all.
        """
        return of_splits(self.labels, {name: self.splits[name] for name in splits or self.splits})

    def _has_head(self, config: PreTrainedConfig) -> bool:
        kind = self.model_class.__name__.removeprefix("AutoModel")  # such as "ForSequenceClassification"
        return any(name.endswith(kind) for name in config.architectures or ())


def examples(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The indices of the rows of each example, in the order of first rows; without `EXAMPLE` each row is an example.

    Rows that belong to every example (`of_all_examples`) are left out.
    """
    by_example: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        by_example.setdefault(row.get(EXAMPLE, index), []).append(index)
    return [own for example, own in by_example.items() if example is not None]


def of_all_examples(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The indices of the rows that belong to every example, such as the documents of retrieval."""
    return [index for index, row in enumerate(rows) if row.get(EXAMPLE, index) is None]


def open_task(name: str, data: str, options: Mapping[str, Any], **shared: Any) -> Task:
    """Read `data` as a task.

    Args:
        name: the name that the task is registered by.
        data: passed to its `from_data`.
        options: parameters of `from_data` that only this task has.
        shared: parameters that all tasks have (`SHARED`).

    Raises:
        UserError: there is no such task, or it has no such option, or one of another type; or `from_data` raises it.
    """
    kind = TASKS.get(name)
    parameters = signature(kind.from_data).parameters
    known = [key for key in parameters if key not in SHARED]
    for key in shared:
        if key not in parameters:
            raise UserError(f"task {name!r} has no {key}: leave out {_OPTION_OF.get(key, f'--{key}')} (data.{key})")
    for key in options:
        if key not in known:
            raise UserError(f"task {name!r} has no option {key!r}: it has {', '.join(known) or 'none'}")
    check_options(options, kind.from_data)
    return kind.from_data(data, **shared, **options)


__getattr__ = moved_names(
    __name__,
    {
        "get": "secateur.tasks:TASKS.get",
        "register": "secateur.tasks:register",
    },
)
