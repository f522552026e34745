"""The numbers of pieces in the configs of a model: of its modules, nested ones, and that of generation.

Numbers are the values of keys such as `pad_token_id`, and the entries of lists such as `suppress_tokens`. A number
that no piece has (-1, or one beyond the vocabulary) is no piece, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.structure.architecture import Architecture, Embedding
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.axis_table import AxisTable
from secateur.structure.binding import bind
from secateur.surgery.compact import SharedEmbedding
from secateur.system.compat.published_options import still_as_loaded

Renumber = Callable[[int], int]

SUFFIXES = ("_token_id", "_token_ids")
"""Ends of keys whose value is a number, or a list of numbers."""
LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
"""Keys whose value is a list of numbers, or of lists of numbers."""


def token_numbers(model: PreTrainedModel) -> set[int]:
    """The pieces that a model needs whatever its texts are: those that its configs name, and its padding.

    In families that count positions from the number of the padding token, also all pieces before it.
    """
    table, numbers = bind(model), set[int]()
    size = max(table.vocabularies.values(), default=0)

    def noted(number: int) -> int:
        numbers.add(number)
        return number

    for config in configs(model):
        _with_numbers(vars(config), noted)
    paddings = padding_numbers(model, table)
    if architecture_of(model).counts_from_padding:
        paddings |= {number for padding in paddings for number in range(padding)}
    return {number for number in numbers | paddings if 0 <= number < size}


def renumber_configs(model: PreTrainedModel, renumber: Renumber, size: int) -> None:
    """Renumber all pieces that the configs of a model name, and set their number of pieces, in place."""
    pieces = architecture_of(model).pieces
    for config in configs(model):
        own = vars(config)
        with still_as_loaded(config):
            own.update(_with_numbers(own, renumber))
            own.update({key: size for key in pieces if key in own})


def padding_numbers(model: PreTrainedModel, table: AxisTable) -> set[int]:
    """The numbers of the padding token in the tables of word embeddings."""
    tables = [word_table(model, row) for row in table.rows if isinstance(row, Embedding) and row.rows is not None]
    return {one.padding_idx for one in tables if one.padding_idx is not None}


def word_table(model: PreTrainedModel, row: Embedding) -> nn.Embedding:
    """The lookup table of word embeddings, which may be factorised, and then be another module's."""
    module = model.get_submodule(row.path)
    owner = module.shared[0] if isinstance(module, SharedEmbedding) else module
    return next(m for m in owner.modules() if isinstance(m, nn.Embedding))


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The architecture of a model's family."""
    return ARCHITECTURES.get(model.config.model_type)


def configs(model: PreTrainedModel) -> list[Any]:
    """Every config of a model once: of its modules, nested ones, and that of generation."""
    found: dict[int, Any] = {}
    for module in model.modules():
        for name in ("config", "generation_config"):
            for config in _nested(vars(module).get(name)):
                found[id(config)] = config
    return list(found.values())


def _nested(config: Any) -> Iterator[Any]:
    if config is None:
        return
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _nested(value)


def _with_numbers(values: Mapping[Any, Any], renumber: Renumber) -> dict[Any, Any]:
    """The entries of a config that hold numbers, renumbered."""
    return {
        name: renumbered
        for name, value in values.items()
        if (renumbered := _renumbered(str(name), value, renumber)) is not None
    }


def _renumbered(name: str, value: Any, renumber: Renumber) -> Any:
    """The value of a key with its numbers renumbered; None if it holds none."""
    if name.endswith(SUFFIXES) or name in LISTS:
        return _each(value, renumber)
    if name == "forced_decoder_ids" and value:
        return [[position, _each(number, renumber)] for position, number in value]
    if name == "sequence_bias" and value:
        pairs = value.items() if isinstance(value, Mapping) else value
        biased = [(_each(sequence, renumber), bias) for sequence, bias in pairs]
        return dict(biased) if isinstance(value, Mapping) else [[*pair] for pair in biased]
    return {**value, **_with_numbers(value, renumber)} if isinstance(value, Mapping) else None


def _each(value: Any, renumber: Renumber) -> Any:
    """A number or a list of them, however deep, renumbered; None stays."""
    if isinstance(value, list | tuple):
        return type(value)(_each(one, renumber) for one in value)
    return renumber(value) if isinstance(value, int) and not isinstance(value, bool) else value
