"""The content of `plan.json`: plain values that are written from a plan, and checked when they are read.

A plan may be edited by hand, so everything that is read is checked like any input. Version 1 (secateur 0.1.0) called
the `units` of a plan `granularities`, and the `size` of a group `units`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.structure.groups import Group
from secateur.structure.head_buckets import Layout
from secateur.structure.ranges import indices_in, ranges_of
from secateur.structure.vocabulary import Vocabulary
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat

KEYS = {
    "version", "model_type", "method", "units", "asked",
    "achieved", "embedding_rank", "layouts", "source", "versions", "groups",
}  # fmt: skip
OPTIONAL = {"latency", "keep", "size", "vocabulary", "embedding_rows"}
"""Keys that only a plan for such an amount, with a cut vocabulary or with quantised word embeddings has."""
ROWS = ("int8",)
"""What the rows of quantised word embeddings may be."""


def read_plan(path: Path | str) -> dict[str, Any]:
    """The checked content of a file.

    Raises:
        UserError: the file cannot be read, or its content is not a plan.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable plan ({error}): expected the JSON that `secateur` writes") from error
    return checked(data, f"the plan {path}")


def vocabulary_of(path: Path | str) -> Vocabulary | None:
    """The vocabulary of the plan in a file, None if all pieces are kept.

    Raises:
        UserError: as `read_plan`, or the vocabulary is damaged.
    """
    data = read_plan(path)
    return Vocabulary.from_dict(data["vocabulary"]) if "vocabulary" in data else None


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """Content of version 1 as version 2."""
    renamed: dict[str, Any] = _renamed(data, "granularities", "units")
    if isinstance(groups := data.get("groups"), dict):
        renamed["groups"] = {name: _renamed(group, "units", "size") for name, group in groups.items()}
    return renamed


def _renamed(data: Any, old: str, new: str) -> Any:
    """An object with one key renamed; unchanged if it has the new key already, so that the old one is refused."""
    if not isinstance(data, dict) or new in data:
        return data
    return {new if key == old else key: value for key, value in data.items()}


FORMAT = FileFormat(2, {1: _upgraded})


def checked(data: Any, source: str = "the plan") -> dict[str, Any]:
    """The content as version 2, with its keys and types checked; groups and layouts are checked when they are used.

    Args:
        source: what the plan is called in an error of its version.

    Raises:
        UserError: a key is missing or unknown, a value has the wrong type, or the version is not supported.
    """
    if isinstance(data, dict) and "version" in data:  # first, because a later version may have other keys
        data = FORMAT.stamped(FORMAT.current(data, source))
    _check_keys(data)
    names = data["units"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"the plan's units must be a list of names, not {names!r}")
    _check_numbers(data)
    _check_types(data, ("model_type", "method", "source"), str, "a string")
    _check_types(data, ("layouts",), list, "a list")
    _check_types(data, ("achieved", "versions", "groups", *({"latency", "size"} & set(data))), dict, "an object")
    return dict(data)


def _check_keys(data: Any) -> None:
    if not isinstance(data, dict) or set(data) - OPTIONAL != KEYS:
        odd = sorted(KEYS ^ (set(data) - OPTIONAL)) if isinstance(data, dict) else [type(data).__name__]
        raise UserError(
            f"this is not a plan: expected exactly the keys that `secateur` writes, different are {', '.join(odd)}"
        )


def _check_numbers(data: Mapping[str, Any]) -> None:
    rank, asked, keep = data["embedding_rank"], data["asked"], data.get("keep", 1)
    if not (rank is None or type(rank) is int):
        raise UserError(f"the plan's embedding_rank must be a whole number or null, not {rank!r}")
    if not (asked is None or (type(asked) in (int, float) and 0 < asked <= 1)):
        raise UserError(f"the plan's asked must be a density in (0, 1] or null, not {asked!r}")
    if data.get("embedding_rows") not in (None, *ROWS):
        raise UserError(f"the plan's embedding_rows must be int8, or be left out, not {data['embedding_rows']!r}")
    if type(keep) is not int:
        raise UserError(f"the plan's keep must be a whole number, or be left out, not {keep!r}")


def _check_types(data: Mapping[str, Any], keys: Iterable[str], kind: type, words: str) -> None:
    for key in keys:
        if not isinstance(data[key], kind):
            raise UserError(f"the plan's {key} must be {words}, not {data[key]!r}")


# Layouts


def layout_from_dict(data: Any) -> Layout:
    """A layout with its types checked; whether it fits the kept heads is checked in `Plan.of`.

    Raises:
        UserError: a key or a type is wrong.
    """
    if not isinstance(data, dict) or set(data) != {"buckets", "multiple"} or not isinstance(data["buckets"], list):
        raise UserError(f"the plan has the layout {data!r}: expected buckets, a list of lists, and multiple")
    whole = type(data["multiple"]) is int and 0 < data["multiple"] <= 1024
    buckets = data["buckets"]
    if not whole or not all(isinstance(b, list) and b and all(type(head) is int for head in b) for b in buckets):
        raise UserError(f"the plan has the layout {data!r}: expected whole numbers, and no empty bucket")
    return Layout(tuple(tuple(bucket) for bucket in buckets), data["multiple"])


# Groups


def group_to_dict(masks: Tensor) -> dict[str, Any]:
    """The masks `(size,)` of one group: kept indices as ranges, and mask values where they are not all 1."""
    values = masks[masks != 0]
    data: dict[str, Any] = {"size": len(masks), "kept": ranges_of(masks.nonzero().flatten().tolist())}
    if bool((values != 1.0).any()):
        data["masks"] = values.tolist()
    return data


def group_masks(group: Group, data: Any) -> Tensor:
    """Masks `(size,)` of one group, with every index and type checked.

    Raises:
        UserError: the content does not fit the group.
    """
    if not isinstance(data, dict) or data.get("size") != group.size or not isinstance(data.get("kept"), list):
        raise UserError(f"the plan's group {group.name!r} must have size: {group.size} and kept: a list of ranges")
    if unknown := set(data) - {"size", "kept", "masks"}:
        raise UserError(
            f"the plan's group {group.name!r} has the unknown key {min(unknown)!r}: size, kept and masks are known"
        )
    masks = torch.zeros(group.size)
    masks[indices_in(data["kept"], group.size, f"the plan's group {group.name!r}")] = 1.0
    if "masks" in data:
        values = data["masks"]
        if not isinstance(values, list) or len(values) != int(masks.sum()) or not all(type(v) is float for v in values):
            raise UserError(f"the plan's group {group.name!r} must have one mask value for each kept unit")
        masks[masks > 0] = torch.tensor(values)
    return masks
