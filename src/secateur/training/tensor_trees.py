"""Tensors in mappings, namespaces and dataclasses, nested: copies of all of them, and what their shapes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor


def copied(tree: Any) -> Any:
    """A tree of the same kind with copies of its tensors; other values are kept."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {name: copied(value) for name, value in tree.items()}
    if isinstance(tree, SimpleNamespace):
        return SimpleNamespace(**copied(vars(tree)))
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{field.name: copied(getattr(tree, field.name)) for field in fields(tree)})
    return tree


def copy_into(places: Any, tree: Any) -> None:
    """Copy the tensors of a tree into those of another one of the same structure and shapes."""
    if isinstance(places, Tensor):
        places.copy_(tree, non_blocking=True)
    elif isinstance(places, Mapping):
        for name, place in places.items():
            copy_into(place, tree[name])
    elif isinstance(places, SimpleNamespace):
        copy_into(vars(places), vars(tree))


def shapes_of(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Name, shape and dtype of each tensor, in a form that can be a key."""
    return tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(tensors.items()))
