"""Cut the rows of pieces out of a dense model: word embeddings, output layers over the vocabulary, and configs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.architecture import VOCABULARIES, Axis, Embedding, Linear
from secateur.structure.axis_table import AxisTable
from secateur.structure.binding import bind
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery import compact
from secateur.surgery.masking import ATTACHED
from secateur.surgery.vocabulary.token_numbers import architecture_of, padding_numbers, renumber_configs, word_table
from secateur.surgery.vocabulary.token_numbers import token_numbers as token_numbers
from secateur.system.compat.borrowed_model import unwrap_forward
from secateur.system.errors import UserError

VOCABULARY = VOCABULARIES[0]


@torch.no_grad()
def cut_rows(model: PreTrainedModel, vocabulary: Vocabulary) -> PreTrainedModel:
    """A stock model with the kept rows only: on kept pieces it computes what `model` does. `model` is not changed.

    The tables of word embeddings, the outputs of an output layer over the vocabulary, and the numbers of tokens in the
    configs follow; its inputs are the new numbers, and logits over the vocabulary are those of the kept pieces.

    Raises:
        UserError: the model is compact, has another number of rows, or has rows that cannot be cut; the vocabulary
            lacks a piece that its configs name; or masks are attached.

    Examples:
        >>> small = cut_rows(model, Vocabulary(30522, (0, 100, 101, 102, 103, *range(1000, 9000))))
    """
    table = bind(model)
    _check(model, table, vocabulary)
    model = copy.deepcopy(model)
    unwrap_forward(model)
    renumber_configs(model, lambda number: _renumbered(number, vocabulary), len(vocabulary))
    _select(model, table, vocabulary)
    for row in table.rows:
        if isinstance(row, Embedding) and row.rows == VOCABULARY:
            _set_rows(word_table(model, row), vocabulary)
            _set_marker(model.get_submodule(row.path), len(vocabulary))
        elif isinstance(row, Linear) and row.out == VOCABULARY:
            layer: Any = model.get_submodule(row.path)
            layer.out_features = len(vocabulary)
    return model


def row_count(model: PreTrainedModel) -> int:
    """The number of rows of a dense model's word embeddings.

    Raises:
        UserError: the tables of its family do not name the vocabulary.
    """
    return _rows(bind(model))


def _rows(table: AxisTable) -> int:
    table.own_words("cutting the vocabulary")
    return table.vocabularies[VOCABULARY]


def _check(model: PreTrainedModel, table: AxisTable, vocabulary: Vocabulary) -> None:
    if getattr(model, ATTACHED, None) is not None:
        raise UserError("masks are attached to the model: detach them before cutting its vocabulary")
    if (rows := _rows(table)) != vocabulary.size:
        raise UserError(
            f"the vocabulary is one of {vocabulary.size} pieces, and the model has {rows}: use the model that it was "
            "made for"
        )
    if set(table.vocabularies) != {VOCABULARY}:
        raise UserError(
            f"the decoder of this {table.model_type!r} model has word embeddings of its own, whose pieces may be those "
            "of another tokenizer: a vocabulary can be cut only where encoder and decoder share them"
        )
    moved = [n for n in sorted(padding_numbers(model, table)) if vocabulary.renumbered([n]) != [n]]
    if moved and architecture_of(model).counts_from_padding:
        raise UserError(
            f"a {table.model_type!r} model counts positions from the number of its padding token, {moved[0]}, which "
            "would change: keep all pieces before it"
        )


def _renumbered(number: int, vocabulary: Vocabulary) -> int:
    return vocabulary.renumbered([number])[0] if 0 <= number < vocabulary.size else number


def _select(model: PreTrainedModel, table: AxisTable, vocabulary: Vocabulary) -> None:
    """Reduce every parameter and buffer along the vocabulary to the kept rows; tied parameters stay tied."""
    kept = torch.tensor(vocabulary.kept)
    own, names = dict(model.named_parameters()), compact.first_names(model)
    cut = {
        entry.name: nn.Parameter(_kept_rows(own[entry.name], entry.axes, kept), own[entry.name].requires_grad)
        for entry in table.parameters
        if VOCABULARY in entry.axes
    }
    for name, first in names.items():
        if first in cut:
            _assign(model, name, cut[first])
    for name, axes in table.buffers.items():
        _assign(model, name, _kept_rows(model.get_buffer(name), axes, kept))


def _kept_rows(tensor: Tensor, axes: tuple[Axis, ...], kept: Tensor) -> Tensor:
    """The kept indices of a tensor along its dimension of pieces."""
    return tensor.detach().index_select(axes.index(VOCABULARY), kept.to(tensor.device))


def _set_rows(table: nn.Embedding, vocabulary: Vocabulary) -> None:
    """Set the attributes of an embedding that repeat its shape and its padding, once where modules share it."""
    if table.num_embeddings == vocabulary.size:
        table.num_embeddings = len(vocabulary)
        if table.padding_idx is not None:
            table.padding_idx = vocabulary.renumbered([table.padding_idx])[0]


def _set_marker(module: nn.Module, rows: int) -> None:
    """Give the empty weight of factorised word embeddings their number of rows."""
    if isinstance(module, compact.FactorisedEmbedding):
        module.weight = module.weight.new_empty(rows, 0)


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)
