"""The numbers of pieces in the content of a `tokenizer.json`: its model, added tokens, padding and post-processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.algorithms import algorithm_of
from secateur.system.errors import UserError

Content = Mapping[str, Any]
Renumber = Callable[[int], int]


def closure(content: Content, wanted: set[int]) -> set[int]:
    """The wanted numbers, and all that the tokenizer needs: its algorithm, and the tokens that it adds to texts.

    Raises:
        UserError: the vocabulary cannot be cut.
    """
    model = content["model"]
    return algorithm_of(model).closure(model, wanted | _fixed_numbers(content))


def cut_content(content: Content, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content with the kept pieces only, under their new numbers.

    Raises:
        UserError: a piece that the tokenizer needs is not kept, or the vocabulary cannot be cut.
    """
    model = content["model"]
    vocabulary.renumbered(closure(content, {*vocabulary.kept}))  # raises if one that is needed is not kept
    cut = algorithm_of(model).cut(model, vocabulary.numbers)
    return {**content, "model": cut, **_with_numbers(content, lambda number: vocabulary.renumbered([number])[0])}


def _fixed_numbers(content: Content) -> set[int]:
    """The numbers that are written in the content outside its model."""
    numbers: list[int] = []

    def noted(number: int) -> int:
        numbers.append(number)
        return number

    _with_numbers(content, noted)
    return set(numbers)


def _with_numbers(content: Content, new: Renumber) -> dict[str, Any]:
    """The parts of the content that hold numbers, outside its model, with new numbers."""
    padding, processor = content["padding"], content["post_processor"]
    return {
        "added_tokens": [{**token, "id": new(token["id"])} for token in content["added_tokens"]],
        "padding": padding and {**padding, "pad_id": new(padding["pad_id"])},
        "post_processor": processor and _processor(processor, new),
    }


def _processor(processor: Content, new: Renumber) -> Content:
    kind = processor["type"]
    if kind not in PROCESSORS:
        raise UserError(
            f"the vocabulary of a tokenizer with the post-processor {kind!r} cannot be cut: expected one of"
            f" {', '.join(PROCESSORS)}"
        )
    return PROCESSORS[kind](processor, new)


def _sequence(processor: Content, new: Renumber) -> Content:
    return {**processor, "processors": [_processor(part, new) for part in processor["processors"]]}


def _template(processor: Content, new: Renumber) -> Content:
    tokens = processor["special_tokens"]
    return {
        **processor,
        "special_tokens": {name: {**token, "ids": [*map(new, token["ids"])]} for name, token in tokens.items()},
    }


def _separated(processor: Content, new: Renumber) -> Content:
    named = {key: [processor[key][0], new(processor[key][1])] for key in ("sep", "cls")}
    return {**processor, **named}


PROCESSORS: dict[str, Callable[[Content, Renumber], Content]] = {
    "TemplateProcessing": _template,
    "BertProcessing": _separated,
    "RobertaProcessing": _separated,
    "ByteLevel": lambda processor, new: processor,
    "Sequence": _sequence,
}
"""Type of a post-processor -> the function that renumbers it."""
