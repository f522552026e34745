"""Language modelling: the next token of plain texts, which are packed into blocks of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from secateur.structure.encoded_rows import UNLABELLED
from secateur.system.errors import UserError
from secateur.tasks import predictors, register
from secateur.tasks.columns import find_column, holds_text, shared_columns
from secateur.tasks.guesses import guessed_texts
from secateur.tasks.origin import Splits, origin_of
from secateur.tasks.predictors import Predictor
from secateur.tasks.rows import check_length
from secateur.tasks.splits import first_rows, read_splits
from secateur.tasks.task import PaddingCollator, Task
from secateur.tasks.tokenizer_settings import kept_settings

TEXT = "text"
USUAL = (TEXT, "content", "document", "article", "sentence", "description")
"""Names that a column of texts may have, tried in this order."""
METRICS = ("accuracy", "perplexity")
TOGETHER = 1000
"""Texts that are tokenized at a time."""


class BlockCollator(PaddingCollator):
    """Pads blocks on the right. Padding is never seen by a token before it, so that any token can stand there."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        multiple = self.pad_to_multiple_of or 1
        width = -(-max(len(row["input_ids"]) for row in features) // multiple) * multiple
        filler = {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0, "labels": UNLABELLED}
        batch = {}
        for name in features[0].keys() - {"length"}:
            values = [row[name] for row in features]
            if name in filler:
                values = [[*row, *[filler[name]] * (width - len(row))] for row in values]
            batch[name] = torch.tensor(values)
        return batch


@register("language")
@dataclass(frozen=True, eq=False, repr=False)
class Language(Task):
    """The next token of texts of any kind, given all tokens before it in a block.

    The texts of a split are joined in their order, each followed by the token that ends a text, and divided into blocks
    of `max_length` tokens; the last block may be shorter. A block may begin within a text, and hold several.

    Attributes:
        splits: "train" and "validation", with the column "text" alone.
        metric: "accuracy", the share of the next tokens that get the highest probability. The other score is
            "perplexity", the exponential of the mean negative log-likelihood of the next tokens; less is better.
        labels: None, because pieces of the tokenizer are no labels.
    """

    model_class: ClassVar[Any] = AutoModelForCausalLM
    collator_class: ClassVar[type[PaddingCollator]] = BlockCollator
    exports: ClassVar[bool] = False
    packed: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "distillation.cache": False,
        "distillation.temperature": 1.0,
        "distillation.hidden": None,  # their squares are large in some dims of decoders: 38,757 beside 6 of the logits
    }
    predictor: ClassVar[Predictor | None] = predictors.CONTINUATIONS

    splits: DatasetDict
    metric: str = METRICS[0]
    labels: tuple[str, ...] | None = None

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        evaluation: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
    ) -> Language:
        """Read `data` (see `read_splits`) and recognise the column of texts.

        Args:
            data: a name on the hub, a folder or a file, such as a txt file with a text on each line.
            text: the column of texts; by default the first of `USUAL` that exists.
            evaluation: the split to score; by default that of `read_splits`.
            metric: "accuracy" or None.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training texts to keep, for a quick trial; all by default.

        Raises:
            UserError: the data cannot be read, has no column of texts or no text, or the metric is another.
        """
        if metric not in (None, METRICS[0]):
            raise UserError(
                f"metric {metric!r} cannot be the main score of language modelling: leave it out for "
                f"{METRICS[0]!r}, beside which {METRICS[1]!r} is reported"
            )
        asked = (text,) if isinstance(text, str) else tuple(text or ())
        if len(asked) > 1:
            raise UserError(f"`text` names {len(asked)} columns: name the one that holds the texts")
        prepared = partial(_prepared, asked=asked)
        splits = read_splits(data, validation=evaluation, prepare=prepared, seed=seed, option="--eval")
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        return cls(splits)

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, in blocks: the columns of the tokenizer, `labels` and `length`.

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes.
        """
        check_length(max_length, tokenizer)
        with kept_settings(tokenizer):
            blocks = [block for block in _blocks(_pieces(split[TEXT][:], tokenizer), max_length) if len(block) > 1]
        return Dataset.from_dict(
            {
                "input_ids": blocks,
                "attention_mask": [[1] * len(block) for block in blocks],
                "labels": blocks,
                "length": [len(block) for block in blocks],
            }
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Pads blocks; the tokenizer needs no padding token."""
        return self.collator_class(tokenizer)

    @staticmethod
    def condensed(outputs: Tensor, labels: Any) -> Tensor:
        """`(batch, tokens - 1, 2)`: the negative log-likelihood of each next token, and whether it is the likeliest.

        Args:
            outputs: logits `(batch, tokens, pieces)`.
            labels: `(batch, tokens)`, alone or the first of several.
        """
        tokens = labels[0] if isinstance(labels, tuple) else labels  # beside it the numbers of the rows
        return torch.stack([_next_tokens(*row) for row in zip(outputs[:, :-1], tokens[:, 1:], strict=True)])

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`METRICS` by name, over all next tokens; the predictions are as `condensed`."""
        found, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        losses, right = found[labels[:, 1:] != UNLABELLED].T.astype(np.float64)
        return dict(zip(METRICS, (float(right.mean()), float(np.exp(losses.mean()))), strict=True))

    def baseline(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The share of the most frequent token among the next tokens."""
        counts = Counter(token for row in rows for token in row["labels"][1:])
        return max(counts.values()) / counts.total() if counts else None


def _next_tokens(logits: Tensor, wanted: Tensor) -> Tensor:
    """`(tokens, 2)` of one block, as in `Language.condensed`: a batch of them would be copied whole."""
    losses = functional.cross_entropy(logits.float(), wanted, reduction="none", ignore_index=UNLABELLED)
    return torch.stack([losses, (logits.argmax(-1) == wanted).float()], dim=-1)


def _prepared(splits: DatasetDict, asked: Sequence[str]) -> Splits:
    """The splits with the column "text" alone, without empty texts.

    Raises:
        UserError: there is no such column, it holds no text, or a split has no text.
    """
    origin, train = origin_of(splits), splits["train"]
    shared = shared_columns(splits)
    column = find_column("text", shared, asked[0] if asked else None, USUAL)
    texts = {}
    for key, split in splits.items():
        if not holds_text(split, column):
            raise UserError(f"column {column!r} of the {origin.name(key)} split holds no text: name another by `text`")
        filled = [text for text in split[column][:] if text and text.strip()]
        if not filled:
            raise UserError(f"the {origin.name(key)} split has no text in the column {column!r}: give one that has")
        texts[key] = Dataset.from_dict({TEXT: filled})
    guesses = guessed_texts(train, shared, (column,), asked)
    return Splits(texts, replace(origin, columns=(column,), guesses=guesses))


def _pieces(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """The tokens of all texts, each followed by the token that ends a text, if there is one."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for first in range(0, len(texts), TOGETHER):
        encoded = tokenizer(list(texts[first : first + TOGETHER]), add_special_tokens=False, verbose=False)
        for ids in encoded["input_ids"]:
            yield from [*ids, *end]


def _blocks(tokens: Iterable[int], size: int) -> Iterator[list[int]]:
    block: list[int] = []
    for token in tokens:
        block.append(token)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
