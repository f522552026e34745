"""Sequence-to-sequence tasks: what translation and summarisation share.

Training is by teacher forcing: the decoder reads the target, shifted by one. Scores are those of the texts that a model
generates (`generation`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.structure.encoded_rows import UNLABELLED
from secateur.system import compat
from secateur.system.errors import MissingPackage, UserError
from secateur.tasks import predictors
from secateur.tasks.generation import BeamSearch, decode
from secateur.tasks.predictors import Predictor
from secateur.tasks.rows import check_length
from secateur.tasks.sequence_data import SOURCE, TARGET, columns_of, flat, prepare
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import PaddingCollator, Task, config_of
from secateur.tasks.tokenizer_settings import kept_settings

UNTRAINED = "secateur_untrained"
"""The key in the config of a model that has been created and not trained yet (`run.new_model`)."""

Self = TypeVar("Self", bound="Sequences")


class SequenceCollator(PaddingCollator):
    """Pads model inputs, and labels on the right with -100; drops `target`, which only `score` reads."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__([{k: v for k, v in row.items() if k not in ("labels", TARGET)} for row in features])
        if all("labels" in row for row in features):
            batch["labels"] = self._padded([row["labels"] for row in features])
        return batch

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """`(batch, tokens of the longest)`, rounded up to the multiple that inputs are padded to."""
        multiple = self.pad_to_multiple_of or 1
        width = -(-max(map(len, rows)) // multiple) * multiple
        return torch.tensor([[*row, *[UNLABELLED] * (width - len(row))] for row in rows])


@dataclass(frozen=True, eq=False, repr=False)
class Sequences(Task):
    """A text generated from a text. A subclass names its scores, and the columns that its data usually has.

    Attributes:
        columns: pairs of columns, source and target, tried in this order.
        metrics: names of the scores, the first is the default.
        package: the package that computes them: its name for import, and what pip installs.
        usual_tokens: the default of `max_new_tokens`.
        splits: "train" and "validation", with the columns "source" and "target".
        metric: the main score, one of `metrics`.
        search: how texts are generated.
        prefix: text put before every source, such as "translate English to German: " for T5.
        max_target_length: tokens to keep of a target in training; None for as many as of a source.
        fine_tuned: whether the model to prune is fine-tuned for this task already. Its head does not tell, because
            a pre-trained model has the same head.
        labels: None, because the outputs of the head have no names.
    """

    model_class: ClassVar[Any] = AutoModelForSeq2SeqLM
    predictor: ClassVar[Predictor | None] = predictors.TEXTS
    collator_class: ClassVar[type[PaddingCollator]] = SequenceCollator
    generates: ClassVar[bool] = True
    exports: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        "distillation.label_smoothing": 0.1,
        "distillation.temperature": 1.0,  # at higher ones the size of the vocabulary dominates (RESULTS.md)
        "training.evaluation_rows": 200,
        "distillation.cache": False,
    }
    columns: ClassVar[Sequence[tuple[str, str]]]
    metrics: ClassVar[tuple[str, ...]]
    package: ClassVar[tuple[str, str]]
    usual_tokens: ClassVar[int | None] = None

    splits: DatasetDict
    metric: str
    search: BeamSearch
    prefix: str = ""
    max_target_length: int | None = None
    fine_tuned: bool = True
    labels: tuple[str, ...] | None = None

    @classmethod
    def from_data(
        cls: type[Self],
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
        prefix: str = "",
        beams: int = 5,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
        max_target_length: int | None = None,
        fine_tuned: bool = True,
    ) -> Self:
        """Read `data` (see `read_splits`) and recognise its columns.

        Args:
            data: a name on the hub, a folder or a file.
            text: the column of the source; by default that of the first pair of `columns` that exists, or the first
                of two languages. A column "translation" of records counts as a column for each language.
            label: the column of the target.
            metric: the main score; by default the first of `metrics`.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.
            validation: the split to score; by default that of `read_splits`. Papers report scores on "test".
            beams, length_penalty, max_new_tokens: as in `BeamSearch`.
            prefix, max_target_length, fine_tuned: as the attributes.

        Raises:
            UserError: the data cannot be read; a column is missing or holds no text; a text is empty; a number is out
                of range; the metric is unknown; the package that computes it is not installed.
        """
        cls._check(metric, max_target_length)
        search = BeamSearch(beams, length_penalty, cls.usual_tokens if max_new_tokens is None else max_new_tokens)
        prepared = partial(prepare, text=text, label=label, usual=cls.columns)
        columns = partial(columns_of, text=text, label=label, usual=cls.columns)
        splits = read_splits(
            data,
            validation=validation,
            each=flat,
            label=lambda rows: columns(rows)[1:],
            target=TARGET,
            prepare=prepared,
            stratified=False,
            seed=seed,
        )
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        return cls(splits, metric or cls.metrics[0], search, prefix, max_target_length, fine_tuned)

    @classmethod
    def _check(cls, metric: str | None, max_target_length: int | None) -> None:
        if metric is not None and metric not in cls.metrics:
            raise UserError(f"metric {metric!r} is not known for texts: choose one of {', '.join(cls.metrics)}")
        if max_target_length is not None and max_target_length < 2:
            raise UserError(
                f"max_target_length is {max_target_length}: give at least 2, because the last token marks the end"
            )
        module, name = cls.package
        if find_spec(module) is None:
            raise MissingPackage(
                f"{' and '.join(cls.metrics)} need the package {module}, which is not installed: run pip install {name}"
            )

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded.

        Args:
            split: rows with the columns "source" and "target".
            tokenizer: the model's.
            max_length: tokens to keep of a source, special ones included, and of a target if `max_target_length` is
                None. Scores always use the whole target.

        Returns:
            The columns of the tokenizer; `labels`, the tokens of the target; `length` (tokens of the source); and, for
            `score`, `target`.

        Raises:
            UserError: `max_length` or `max_target_length` is more than the tokenizer's model takes.
        """
        limits = self.limits(max_length)
        check_length(max(limits.values()), tokenizer)
        prefix = self.prefix  # not `self`: `map` hashes what its function refers to

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            sources = [prefix + source for source in batch[SOURCE]]
            encoded = tokenizer(sources, truncation=True, max_length=max_length)
            targets = tokenizer(text_target=batch[TARGET], truncation=True, max_length=limits["labels"])
            lengths = [len(ids) for ids in encoded["input_ids"]]
            return {**encoded, "labels": targets["input_ids"], "length": lengths, TARGET: batch[TARGET]}

        with kept_settings(tokenizer):
            return split.map(tokens, batched=True, remove_columns=[SOURCE], desc="tokenize")

    def limits(self, max_length: int) -> dict[str, int]:
        return {"input_ids": max_length, "labels": self.max_target_length or max_length}

    def load_model(self, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
        """As `Task.load_model`; removes the mark `UNTRAINED`, because the loaded model is going to be trained."""
        model = super().load_model(name_or_path, **kwargs)
        if hasattr(model.config, UNTRAINED):
            delattr(model.config, UNTRAINED)
        return model

    def is_finetuned(self, model_or_folder: PreTrainedModel | str | Path) -> bool:
        """Whether a checkpoint has a head for this task, `fine_tuned` is true, and it is not untrained."""
        config = config_of(model_or_folder)
        return self.fine_tuned and self._has_head(config) and not getattr(config, UNTRAINED, False)

    def _has_head(self, config: PreTrainedConfig) -> bool:
        head = compat.sequence_to_sequence_heads().get(config.model_type)
        return head is not None and any(name.endswith(head) for name in config.architectures or ())

    def generate(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.search(model, inputs)

    def read(self, prediction: EvalPrediction, tokenizer: PreTrainedTokenizerBase) -> EvalPrediction:
        texts, targets = (decode(tokens, tokenizer) for tokens in (prediction.predictions, prediction.label_ids))
        return EvalPrediction(np.array(texts), np.array(targets))

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`metrics` by name, of generated texts against target texts.

        Raises:
            UserError: the predictions are not texts; generate them and pass what `read` returns. Or there is another
                number of them than of targets.
        """
        texts, targets = list(prediction.predictions), list(prediction.label_ids)
        if not all(isinstance(text, str) for text in (*texts, *targets)):
            raise UserError(
                f"the task {self.name!r} is scored on generated texts, and these are logits: generate first"
            )
        if len(texts) != len(targets):
            raise UserError(
                f"expected a generated text for each of {len(targets)} targets, got {len(texts)}: generate one for each"
            )
        return self.score_texts(texts, targets)

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """As `compute_metrics`, against the whole targets, as the data has them."""
        return self.compute_metrics(EvalPrediction(prediction.predictions, np.array([row[TARGET] for row in rows])))

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """None: a constant text scores about 0, and to compare with that, a teacher would have to generate texts.

        Copies of the sources are no constant, and a good summariser may score less than the first sentences.
        """

    @abstractmethod
    def score_texts(self, texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """`metrics` by name, of generated texts against target texts, pair by pair."""
