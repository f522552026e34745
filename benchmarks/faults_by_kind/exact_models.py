"""Small models that are right on every row of their data, so that a label that is read wrongly lowers their score."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from small_world import WORDS, config, tokenizer
from torch.nn import functional
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CLASS_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""The word of each class: a text has the words of its classes."""
CLASS_NAMES = ("mild", "grim", "keen", "calm", "wild", "sour", "bold", "tame", "deep", "rare", "odd")
"""The name of each class; sorted, they are in another order."""
TASKS = ("classification", "multilabel", "tokens")


def words() -> PreTrainedTokenizerFast:
    """The tokenizer of the models."""
    return tokenizer(words=(*WORDS, *CLASS_WORDS))


def class_sets(task: str, count: int) -> list[tuple[int, ...]]:
    """The classes of each row: one, or one or two where a row may have several."""
    ones: list[tuple[int, ...]] = [(number,) for number in range(count)]
    return ones if task == "classification" else [*ones, *((one, (one + 1) % count) for one in range(count))]


def text_of(classes: Sequence[int]) -> str:
    """A text of these classes; for tokens each of its words has a class."""
    return " ".join(CLASS_WORDS[number] for number in classes)


@cache
def exact_model(task: str, count: int, seed: int = 0, **shape: Any) -> PreTrainedModel:
    """A model of so many classes that is right on every text of `class_sets`; output n is class n."""
    torch.manual_seed(seed)
    settings = config(num_labels=count)
    settings.update({"vocab_size": len(words()), "hidden_size": 32, **shape})
    model = (BertForTokenClassification if task == "tokens" else BertForSequenceClassification)(
        settings
    ).eval()  # no dropout
    rows = class_sets(task, count)
    batch = words()([text_of(classes) for classes in rows], padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(500):
        loss, right = _loss(task, model(**batch).logits, rows)
        if right and step % 10 == 0 and loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right, "the model has not learned its rows"
    return model


def _loss(task: str, logits: torch.Tensor, rows: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, bool]:
    """The loss, and whether every prediction is right."""
    if task == "multilabel":
        marks = torch.stack([functional.one_hot(torch.tensor(row), logits.shape[1]).sum(0) for row in rows])
        right = bool(((logits > 0) == (marks > 0)).all())
        return functional.binary_cross_entropy_with_logits(logits, marks.float()), right
    if task == "tokens":
        logits = torch.cat([one[1 : 1 + len(row)] for one, row in zip(logits, rows, strict=True)])
    gold = torch.tensor([number for row in rows for number in row])
    return functional.cross_entropy(logits, gold), bool((logits.argmax(-1) == gold).all())


def with_outputs(model: PreTrainedModel, outputs: Sequence[int], names: Sequence[str] | None) -> PreTrainedModel:
    """A copy whose output for class n is `outputs[n]`, and whose outputs have these names, or LABEL_0, ..."""
    moved: Any = deepcopy(model)
    with torch.no_grad():
        for parameter in moved.classifier.parameters():
            parameter[list(outputs)] = parameter.clone()
    own = dict(enumerate(names or (f"LABEL_{number}" for number in range(len(outputs)))))
    moved.config.update({"id2label": own, "label2id": {name: number for number, name in own.items()}})
    return moved  # type: ignore[no-any-return]
