"""The data of a command for a model: inputs to compare and to calibrate on, and the scores of an export beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from secateur.cli.given_data import OpenedData, scored_source
from secateur.deploy.export import opened
from secateur.deploy.runtime import Runner
from secateur.deploy.seq2seq.model import ExportedSeq2Seq
from secateur.measure.evaluation import batches, check_rows, encoded, fitted_to, scores_beside_export
from secateur.surgery.opening import open_tokenizer


def fitted(data: OpenedData | None, model: PreTrainedModel, folder: str) -> OpenedData | None:
    """The data for a model's own labels.

    Raises:
        UserError: the model does not fit the data, or a scored row has more tokens than it has positions, before
            anything is written.
    """
    if data is None:
        return None
    recipe, read = data
    task, tokenizer = fitted_to(read, model, folder, own_reference=True)
    check_rows(encoded(task, "validation", tokenizer, recipe.max_length), model)
    return recipe, task


def batches_of(
    data: OpenedData, split: str, model: PreTrainedModel, folder: str, limit: int = 64
) -> list[dict[str, Tensor]]:
    """The first rows of a split as inputs of a model. Validation rows, on which int8 is scored, never calibrate it.

    Raises:
        UserError: one of them has more tokens than the model has positions.
    """
    recipe, task = data
    tokenizer = open_tokenizer(folder)
    rows = encoded(task, split, tokenizer, recipe.max_length)[:limit]
    check_rows(rows, model)
    return batches(task, rows, tokenizer, limit=limit)


def scores(
    model: PreTrainedModel, folder: str, exported: Path, dtype: str | None, data: OpenedData | None
) -> dict[str, Any]:
    """The scores of a model and of its export under the key `scores`; nothing without data."""
    return {} if data is None else scores_of(model, folder, opened(exported, dtype=dtype), data)


def scores_of(
    model: PreTrainedModel, folder: str, exported: Runner | ExportedSeq2Seq, data: OpenedData | None
) -> dict[str, Any]:
    """As `scores`, of an export that is open."""
    if data is None:
        return {}
    recipe, task = data
    found = scores_beside_export(model, exported, task, open_tokenizer(folder), recipe.max_length)
    return {"scores": {**found, "data": scored_source(recipe, task)}}
