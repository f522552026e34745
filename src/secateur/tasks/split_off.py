"""Validation rows that are split off the training rows, where the data has none of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from secateur.system.errors import UserError
from secateur.tasks.image_files import is_of_images

Groups = NDArray[np.int64]
"""`(groups,)` or `(rows,)`: numbers of groups; a group is all rows whose inputs are equal."""


def split_off(rows: Dataset, label: str | None, share: float, seed: int, stratified: bool = True) -> DatasetDict:
    """A "train" and a "validation" split of rows.

    Rows whose inputs are equal go to one split, because a text in both would raise the score. Rows of too few inputs to
    split off one by `share` are split row by row.

    Classes, scores, sets of labels, and lists of numbers by whether these differ are stratified. Of a class that has
    several inputs some are split off and some stay, unless there are more classes than inputs to split off; an input
    that has the only occurrence of a label stays.

    Args:
        rows: with the columns of inputs and of the label alone; images have a column of their digests beside them.
        label: the column of classes, scores, lists of labels or of numbers, or target texts; None for rows without one.
        share: the fraction of the inputs, in (0, 1), to split off; at least one is.
        seed: chooses them.
        stratified: whether `label` has classes, scores or lists, and not texts.

    Raises:
        UserError: there is one row.
    """
    if len(rows) < 2:
        raise UserError("the data has 1 row: give at least 2, one to train on and one to evaluate on")
    group_of = _groups(rows, label)
    if group_of.max() + 1 < 1 / share:
        group_of = np.arange(len(rows))
    groups = int(group_of.max()) + 1
    order = np.random.default_rng(seed).permutation(groups)
    count = min(max(1, round(share * groups)), groups - 1)
    if label is None or not stratified:
        chosen = _spread(order, count)
    elif isinstance((values := rows[label][:])[0], float):
        chosen = _spread(order[np.argsort(np.array(values)[_first(group_of)][order], kind="stable")], count)
    else:
        chosen = _of_classes(order, _labels(values, group_of, groups), count)
    held_out = np.isin(group_of, chosen)
    return DatasetDict(train=rows.select(np.flatnonzero(~held_out)), validation=rows.select(np.flatnonzero(held_out)))


def _groups(rows: Dataset, label: str | None) -> Groups:
    """`(rows,)`: the group of each row, in the order of first rows."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in _inputs(rows, label)], dtype=np.int64)


def _inputs(rows: Dataset, label: str | None) -> Iterator[bytes]:
    """A digest of the inputs of each row; a row of a label alone is an input of its own.

    Images are compared by the column of their digests, because two files may hold the same image.
    """
    columns = [name for name, feature in rows.features.items() if name != label and not is_of_images(feature)]
    if not columns:
        yield from (str(number).encode() for number in range(len(rows)))
    for batch in rows.select_columns(columns).iter(batch_size=1000) if columns else ():
        for inputs in zip(*(batch[name] for name in columns), strict=True):
            yield blake2b(repr(inputs).encode(), digest_size=16).digest()


def _first(group_of: Groups) -> Groups:
    """The first row of each group."""
    return np.unique(group_of, return_index=True)[1]


def _labels(values: Sequence[Any], group_of: Groups, groups: int) -> list[tuple[Any, ...]]:
    """The labels that occur in each group, sorted; of a list of numbers whether they differ."""
    found: list[dict[Any, None]] = [{} for _ in range(groups)]
    for group, value in zip(group_of.tolist(), values, strict=True):
        found[group].update(dict.fromkeys(_labels_of(value)))
    return [tuple(sorted(own, key=str)) for own in found]


def _labels_of(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [len(set(value)) > 1] if any(isinstance(one, float) for one in value) else value


def _of_classes(order: Groups, labels: Sequence[tuple[Any, ...]], count: int) -> Groups:
    """That many groups, and as many more as it takes that every class which can have one has one.

    Args:
        order: the groups in a random order.
        labels: of each group, which together are its class.
    """
    seen: set[Any] = set()
    free: list[int] = []
    for group in order.tolist():
        if seen.issuperset(labels[group]):
            free.append(group)
        seen.update(labels[group])
    if not free:  # every label occurs once
        return _spread(order, count)
    by_class: dict[Any, list[int]] = {}
    for group in free:
        by_class.setdefault(labels[group], []).append(group)
    chosen = _spread(np.array([group for name in sorted(by_class, key=_texts) for group in by_class[name]]), count)
    if len(by_class) > count:
        return chosen
    missing = [own[0] for own in by_class.values() if not np.isin(own, chosen).any()]
    return np.append(chosen, np.array(missing, dtype=np.int64))


def _spread(groups: Groups, count: int) -> Groups:
    """That many of them at equal distances; all if there are fewer."""
    count = min(count, len(groups))
    return groups[np.arange(count) * len(groups) // count]


def _texts(labels: tuple[Any, ...]) -> list[str]:
    return [str(label) for label in labels]
