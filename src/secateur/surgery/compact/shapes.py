"""Give a stock model the shapes and modules that the `secateur` key of its config describes."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from torch import nn

from secateur.surgery.compact.attention_calls import ATTENTIONS
from secateur.surgery.compact.modules import (
    Bias,
    Empty,
    FactorisedEmbedding,
    QuantisedEmbedding,
    SharedEmbedding,
    SharedHead,
    Skip,
    Zero,
    factor_of,
)
from secateur.surgery.schema import Structure


def reshape(model: nn.Module, structure: Structure) -> None:
    """Give a stock model the shapes and modules of a structure, in place; new tensors are not filled.

    Raises:
        ValueError: the structure does not fit the model.
    """
    tied = first_names(model)
    try:
        for part in PARTS:
            part(model, structure)
        for name, first in tied.items():
            path, _, leaf = name.rpartition(".")
            if name != first and path not in structure.shared:
                setattr(model.get_submodule(path), leaf, model.get_parameter(first))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the secateur key of the config does not fit this model: {error}") from error


def _factorise(model: nn.Module, structure: Structure) -> None:
    for path, rank in structure.factorised.items():
        stock = model.get_submodule(path)
        if isinstance(stock, nn.Embedding):
            model.set_submodule(path, FactorisedEmbedding.like(stock, rank))


def _resize_embeddings(model: nn.Module, structure: Structure) -> None:
    for path, size in structure.embedding.items():
        module = model.get_submodule(path)
        if isinstance(module, FactorisedEmbedding):
            _resize(module.projection, weight=(size, None), out_features=size)
        elif isinstance(module, nn.Embedding):
            _resize(module, weight=(None, size), embedding_dim=size)
        else:
            _resize_patches(module, size)


def _resize_patches(module: nn.Module, size: int) -> None:
    """Resize the module that embeds an image: the vectors that it makes of patches, and its own single tokens."""
    for name, _ in module.named_parameters(recurse=False):
        _resize(module, **{name: (None, None, size)})
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            _resize(child, weight=(size, None, None, None), bias=(size,), out_channels=size)


def _quantise(model: nn.Module, structure: Structure) -> None:
    for path in structure.quantised:
        module = model.get_submodule(path)
        factorised = isinstance(module, FactorisedEmbedding)
        stock = module.table if factorised else module
        if isinstance(stock, nn.Embedding):
            name = f"{path}.table" if factorised else path
            model.set_submodule(name, QuantisedEmbedding(stock.weight, factor_of(stock)))


def _share(model: nn.Module, structure: Structure) -> None:
    for path, owner in structure.shared.items():
        stock, table = model.get_submodule(path), model.get_submodule(owner)
        if isinstance(stock, SharedEmbedding | SharedHead):  # of a model that was factorised before it is cut
            continue
        if not isinstance(table, FactorisedEmbedding | QuantisedEmbedding):
            raise TypeError(f"{owner} is a {type(table).__name__}")
        model.set_submodule(
            path, SharedHead(stock, table) if isinstance(stock, nn.Linear) else SharedEmbedding(stock, table)
        )
    for prefix, module in model.named_modules():
        _untie(module, {path.removeprefix(f"{prefix}." if prefix else "") for path in structure.shared})


def _untie(module: nn.Module, paths: Container[str]) -> None:
    """Take modules at these paths out of what transformers ties: they have no weight of their own."""
    for name in ("_tied_weights_keys", "all_tied_weights_keys"):
        if keys := getattr(module, name, None):
            setattr(module, name, {key: own for key, own in keys.items() if key.rpartition(".")[0] not in paths})


def _resize_norms(model: nn.Module, structure: Structure) -> None:
    for path, size in structure.norm.items():
        module = model.get_submodule(path)
        own = {"bias": (size,), "normalized_shape": (size,)} if isinstance(module, nn.LayerNorm) else {}
        _resize(module, weight=(size,), **own)


def _resize_linears(model: nn.Module, structure: Structure) -> None:
    for path, (out, into) in structure.linear.items():
        _resize(model.get_submodule(path), weight=(out, into), bias=(out,), out_features=out, in_features=into)
    for path, size in structure.bias.items():
        model.set_submodule(path, Bias(size, model.get_parameter(f"{path}.weight")))


REPLACED_BY: Mapping[str, Callable[[Any], nn.Module]] = {
    "zero": lambda stock: Zero(stock.weight),
    "empty": lambda stock: Empty(),
    "identity": lambda stock: nn.Identity(),
    "skip": Skip,
}


def _replace(model: nn.Module, structure: Structure) -> None:
    """Replace removed modules; those that a `Skip` keeps as children are replaced before it."""
    for path, name in sorted(structure.replaced.items(), key=lambda item: item[1] == "skip"):
        stock = model.get_submodule(path)  # raises where there is none: `set_submodule` would add a new module
        model.set_submodule(path, REPLACED_BY[name](stock))


def _replace_attentions(model: nn.Module, structure: Structure) -> None:
    for path, attention in structure.attention.items():
        model.set_submodule(path, ATTENTIONS[attention.call](model.get_submodule(path), attention))


PARTS = (
    _factorise,
    _resize_embeddings,
    _quantise,
    _share,
    _resize_norms,
    _resize_linears,
    _replace,
    _replace_attentions,
)
"""The steps of `reshape`, in their order: a table has its size before it is quantised, and is there to be shared."""


def _resize(module: nn.Module, **sizes: Any) -> None:
    """Replace parameters by empty ones of a new shape (None keeps a dimension); set the attributes that repeat it."""
    for name, size in sizes.items():
        old = getattr(module, name)
        if not isinstance(old, nn.Parameter):
            if old is not None:
                setattr(module, name, size)
            continue
        if len(size) != old.dim():
            raise TypeError(f"{type(module).__name__} has a {name} of {old.dim()} dimensions, not {len(size)}")
        shape = [n if n is not None else old.shape[dim] for dim, n in enumerate(size)]
        setattr(module, name, nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> the first name of the same parameter, which differs where weights are tied."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in named}


def tied_names(model: nn.Module) -> set[str]:
    """The further names of tied parameters."""
    return {name for name, first in first_names(model).items() if name != first}
