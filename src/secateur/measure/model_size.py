"""The size of a model: its parameters, and the bytes of its weights, in memory and on disk, by parts of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.structure.architecture import Linear
from secateur.structure.axis_table import AxisTable
from secateur.structure.binding import bind
from secateur.structure.model_parts import by_part
from secateur.surgery.model_files import weight_files
from secateur.surgery.uncut import planned_space
from secateur.surgery.word_embeddings import quantised_tables
from secateur.system.errors import UserError

FLOAT32 = 4
"""Bytes of a number of a dense model, whose size is given in float32 whatever its file has."""


def parameter_count(model: PreTrainedModel) -> int:
    """Numbers stored in the model's weights, padding included; a shared weight counts once, scales do not count."""
    return sum(_numbers(model).values())


def _numbers(model: PreTrainedModel) -> dict[str, int]:
    """Name of each parameter -> its numbers; the int8 rows of word embeddings, which are no parameters, are in it."""
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return numbers | {f"{path}.rows": table.rows.numel() for path, table in quantised_tables(model).items()}


def disk_bytes(folder: str | Path) -> int:
    """Bytes of the weights in `folder`: the sum over its *.safetensors files, those of a sentence head too.

    Raises:
        UserError: `folder` holds no such file.
    """
    return sum(file.stat().st_size for file in _weight_files(folder))


def dense_parts(model: PreTrainedModel) -> dict[str, int] | None:
    """Part of a dense or compact model -> bytes of its parameters in float32; None for a family without a table."""
    table = table_of(model)
    sizes = {name: FLOAT32 * numbers for name, numbers in _numbers(model).items()}
    return None if table is None else by_part(table, sizes)


def shares_embeddings(model: PreTrainedModel) -> bool | None:
    """Whether an output layer of a dense or compact model shares its embeddings; None for a family without a table."""
    table = table_of(model)
    return None if table is None else any(isinstance(row, Linear) and row.tied for row in table.rows)


def stored_parts(folder: str | Path, model: PreTrainedModel) -> dict[str, int] | None:
    """Part of a model -> bytes of its tensors in the files of its folder; None for a family without a table.

    The headers of the files, with the names and shapes of the tensors, belong to no part.
    """
    table = table_of(model)
    return None if table is None else by_part(table, tensor_bytes(folder))


def table_of(model: PreTrainedModel) -> AxisTable | None:
    """The table of a dense model, or of the model that a compact one was cut from; None if it has none."""
    try:
        return planned_space(model)[0].table if getattr(model.config, "secateur", None) else bind(model)
    except UserError:
        return None


def tensor_bytes(folder: str | Path) -> dict[str, int]:
    """Name in the model -> bytes of every tensor in the *.safetensors files of a folder.

    Raises:
        UserError: `folder` holds no such file.
    """
    offsets: dict[str, list[int]] = {}
    for file, prefix in _weight_files(folder).items():
        offsets |= {prefix + name: entry["data_offsets"] for name, entry in _header(file).items()}
    return {name: end - begin for name, (begin, end) in offsets.items()}


def _header(file: Path) -> dict[str, Any]:
    """The entries of the tensors in a file: a length of 8 bytes, and JSON of that length."""
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def _weight_files(folder: str | Path) -> dict[Path, str]:
    files = weight_files(Path(folder))
    if not files:
        raise UserError(f"expected a model folder with *.safetensors files, got {folder}: give a saved model's folder")
    return files
