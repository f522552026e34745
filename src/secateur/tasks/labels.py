"""The labels of a task: which the data has, in which order, and which output of a model's head each of them is.

A label of the data is text here: an integer 3 is "3", and a class with a name is that name. The order of the labels
comes from the user (`data.labels`), from the data (numbers, or the names of a `ClassLabel`), or, for other strings,
from sorting. A sorted order says nothing about a head whose labels have no names, so that such a pair is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value

from secateur.system.errors import UserError
from secateur.tasks.columns import check_count, listed
from secateur.tasks.origin import Splits, origin_of

Order = Literal["asked", "data", "sorted"]
"""Where the order of labels comes from: the user, the data, or sorting strings."""

HINT = "name the data's labels in the order of the model's outputs by --labels (data.labels)"
SCORES_HINT = "let labels that are numbers, or true and false, be read as scores by --task-option scores=true"
OUTPUTS_HINT = "give a model with an output for each label"
NUMBER = re.compile(r"(?:LABEL_)?(0|[1-9]\d*)")
"""A label that is only a number. With a leading zero it is a code, which is text."""


@dataclass(frozen=True)
class Labels:
    """The labels of a column.

    Attributes:
        names: of the labels, in order.
        order: where their order comes from.
        index: the text of each label in the data -> its index in `names`.
    """

    names: tuple[str, ...]
    order: Order
    index: Mapping[str, int]

    def indexed(self, splits: DatasetDict, column: str) -> Splits:
        """The splits with the labels of a column, or those in its lists, by index; the column becomes the last.

        The splits keep their origin. The column's feature is a `ClassLabel` that keeps `order` as its `id`.
        """
        feature = ClassLabel(names=list(self.names), id=self.order)
        indexed = {name: _replaced(split, column, feature, self.index) for name, split in splits.items()}
        return Splits(indexed, origin_of(splits))


def read_labels(
    splits: DatasetDict, column: str, asked: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Labels:
    """The labels of a column of strings, integers, whole decimals, truth values or classes, or of lists of them.

    Numbers are in numeric order. Integers of which one is 0 are classes from 0 to the highest, named LABEL_0, LABEL_1,
    ...; other numbers, such as stars from 1, have themselves as names.

    Args:
        splits: without gaps in the column.
        column: of the labels.
        asked: the labels in the order that the user states, or else names for the integers from 0.
        names: the labels in the order in which the task sorts them, if they are strings other than numbers.

    Raises:
        UserError: there are too many labels, or `asked` lacks one of them or has one twice.
    """
    texts, feature = distinct(splits, column), element_of(splits["train"].features[column])
    numbers = numbers_of(texts)
    if asked:
        return _asked_labels(texts, numbers, column, asked)
    if isinstance(feature, ClassLabel):
        return _in_order(feature.names, "data")
    if numbers is None:
        check_count(len(texts), column)
        return _in_order(names or sorted(texts), "data" if feature == Value("bool") else "sorted")
    if "int" in feature.dtype and 0 in numbers.values():
        return _classes_from_zero(max(numbers.values()) + 1, column)
    check_count(len(texts), column)
    return _in_order(sorted(texts, key=numbers.__getitem__), "data")


def _in_order(names: Sequence[str], order: Order) -> Labels:
    return Labels(tuple(names), order, {name: index for index, name in enumerate(names)})


def _classes_from_zero(count: int, column: str, names: Sequence[str] | None = None) -> Labels:
    check_count(count, column)
    index = {str(number): number for number in range(count)}
    return Labels(tuple(names or (f"LABEL_{number}" for number in range(count))), "asked" if names else "data", index)


def _asked_labels(
    texts: Collection[str], numbers: Mapping[str, int] | None, column: str, asked: Sequence[str]
) -> Labels:
    """The labels that the user states, in their order."""
    check_asked(asked)
    if missing := sorted(set(texts) - set(asked)):
        if numbers is not None and max(numbers.values()) < len(asked):
            return _classes_from_zero(len(asked), column, asked)
        raise UserError(
            f"data.labels names {listed(asked)}, and the labels in {column!r} have also {listed(missing)}: "
            "name every label of the data, in the order of the model's outputs"
        )
    return _in_order(asked, "asked")


def check_asked(asked: Sequence[str]) -> None:
    """Refuse labels of which the user states one twice."""
    if twice := next((name for name in asked if list(asked).count(name) > 1), None):
        raise UserError(f"data.labels has {twice!r} twice: name each label once")


def distinct(splits: DatasetDict, column: str) -> set[str]:
    """The distinct labels of a column, or of the lists in it, as text."""
    return {text for split in splits.values() for text in _texts(split, column)}


def _texts(split: Dataset, column: str) -> Iterator[str]:
    feature = split.features[column]
    element = element_of(feature)
    values = split[column][:] if feature is element else (value for row in split[column][:] for value in row)
    return map(text_by(element), values)


def text_by(feature: Any) -> Callable[[Any], str]:
    """What writes a label of this feature as text."""
    if isinstance(feature, ClassLabel):
        return lambda value: feature.names[value]
    if feature == Value("bool"):
        return lambda value: "true" if value else "false"
    return lambda value: str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def element_of(feature: Any) -> Any:
    """The feature of labels: that of the column, or of the lists in it."""
    return feature.feature if isinstance(feature, List | LargeList) else feature


def _replaced(split: Dataset, column: str, feature: ClassLabel, index: Mapping[str, int]) -> Dataset:
    """The split with labels by index."""
    old = split.features[column]
    text = text_by(element_of(old))
    if old is element_of(old):
        values: list[Any] = [index[text(value)] for value in split[column][:]]
        new: Any = feature
    else:
        values, new = [[index[text(value)] for value in row] for row in split[column][:]], List(feature)
    return split.remove_columns(column).add_column(column, values, feature=new)  # type: ignore[call-arg]


def numbers_of(names: Collection[str]) -> dict[str, int] | None:
    """Label -> the number that it is ("3", "LABEL_3"), if all labels are numbers and no number occurs twice."""
    matches = [NUMBER.fullmatch(name) for name in names]
    numbers = {match[0]: int(match[1]) for match in matches if match}
    return numbers if len(numbers) == len(names) == len(set(numbers.values())) else None


def only_numbered(names: Sequence[str]) -> bool:
    """Whether the names are the numbers of the outputs (LABEL_0, ... or 0, ...), which have no meaning."""
    return list((numbers_of(names) or {}).values()) == [*range(len(names))]


# The outputs of a head


def outputs_of(
    labels: Sequence[str], order: Order, head: Sequence[str], owner: str, one_output: str = OUTPUTS_HINT
) -> tuple[int, ...]:
    """The output of a head for each label of the data.

    Labels are matched by their names, ignoring case. Numbers are found in the names of the head ("1 star"), or are
    the outputs themselves if the highest is the last output. The order alone decides where the user states it, and
    where the data orders its labels and the head has no names.

    Args:
        labels: of the data.
        order: where their order comes from.
        head: the names of the outputs, in order.
        owner: whose head it is, for messages ("the teacher").
        one_output: what to do where the head has a single output, for the message.

    Raises:
        UserError: some label has no output, or it would be a guess.
    """
    found = _by_rule(labels, order, head)
    if found is None:
        hint = HINT if len(head) > 1 else one_output
        raise UserError(f"{owner} has {described(head)}, and the data has {described(labels)}: {hint}")
    return found


def _by_rule(labels: Sequence[str], order: Order, head: Sequence[str]) -> tuple[int, ...] | None:
    same, numbers = len(labels) == len(head), numbers_of(labels)
    by_name = _positions([name.casefold() for name in labels], [name.casefold() for name in head])
    if order == "asked":
        contradicts = by_name is not None and not only_numbered(head) and by_name != tuple(range(len(head)))
        return tuple(range(len(head))) if same and not contradicts else None
    if numbers is not None:
        return _by_number([*numbers.values()], head)
    if by_name is not None:
        return by_name
    return tuple(range(len(head))) if same and order == "data" and only_numbered(head) else None


def _by_number(numbers: Sequence[int], head: Sequence[str]) -> tuple[int, ...] | None:
    """The outputs of labels that are numbers: those that the names of the head contain, or the numbers themselves."""
    if not only_numbered(head):
        named = [_only_number(name) for name in head]
        if None not in named and (found := _positions(numbers, named)) is not None:
            return found
    return tuple(numbers) if max(numbers) + 1 == len(head) else None


def _only_number(name: str) -> int | None:
    """The number in a name such as "1 star"; None if it has none or several."""
    digits = re.findall(r"\d+", name)
    return int(digits[0]) if len(digits) == 1 else None


def _positions(wanted: Sequence[Any], among: Sequence[Any]) -> tuple[int, ...] | None:
    """The position of each value among others, which differ; None if one is missing."""
    position = {value: index for index, value in enumerate(among)}
    if len(position) < len(among) or not set(wanted) <= position.keys():
        return None
    return tuple(position[value] for value in wanted)


def names_of_outputs(labels: Sequence[str], outputs: Sequence[int], head: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs: those of the head if it has any, else those of the data."""
    if not only_numbered(head):
        return tuple(head)
    own = dict(zip(outputs, labels, strict=True))
    return tuple(own.get(output, name) for output, name in enumerate(head))


def described(names: Sequence[str]) -> str:
    """The labels, as messages name them."""
    if len(names) == 1:
        return "one output (a score)"
    return f"{len(names)} labels" + ("" if only_numbered(names) else f" ({listed(names)})")
