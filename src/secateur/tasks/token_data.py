"""The data of token classification: sentences as lists of words, with a tag for each word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value

from secateur.system.errors import UserError, as_user_error
from secateur.tasks.columns import check_count, check_rows, find_column, is_text, listed, shared_columns

# Tried in order. Of the tags, those of entities come first.
WORDS = ("tokens", "words", "sentence", "text")
TAGS = ("ner_tags", "ner", "tags", "labels", "label", "pos_tags", "pos", "upos", "chunk_tags")
OUTSIDE = "O"
CONLL2003 = (OUTSIDE, *(f"{part}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for part in "BI"))
"""The tags 0 to 8 in the `ner_tags` of CoNLL-2003 (Tjong Kim Sang and De Meulder, 2003), in the order of `conll2003` on
the hub, for copies of it without names."""
ENTITY = re.compile(r"[BIES]-.+")  # the parts of an entity that seqeval reads


def prepare(splits: DatasetDict, text: str | Sequence[str] | None, label: str | None) -> DatasetDict:
    """The splits with only the columns in use, words first and tags last, and tags by index.

    Args:
        splits: as read.
        text, label: the columns of words and of tags; by default the first of `WORDS` and of `TAGS` that exist.

    Raises:
        UserError: a column is missing or holds no lists, a row is incomplete, or the tags have no names.
    """
    shared = shared_columns(splits)
    named = (text,) if isinstance(text, str) else tuple(text or ())
    if len(named) > 1:
        raise UserError(f"`text` names {len(named)} columns: name the one that holds the words")
    words = find_column("text", shared, named[0] if named else None, WORDS)
    tags = find_column("label", shared, label, TAGS)
    if words == tags:
        raise UserError(f"column {words!r} is both words and tags: name another by `text` or `label`")
    splits = splits.select_columns([words, tags])
    for name, split in splits.items():
        _check_kinds(name, split, words, tags)
        _check_rows(name, split, words, tags)
    names = _tag_names(splits, tags)
    with as_user_error(f"the tags in {tags!r} cannot be read", "give every tag a name"):
        return splits.cast_column(tags, List(ClassLabel(names=names)))


def _check_kinds(name: str, split: Dataset, words: str, tags: str) -> None:
    for column in (words, tags):
        feature = split.features[column]
        if not isinstance(feature, List | LargeList):
            held = feature.dtype if isinstance(feature, Value) else "no lists"
            raise UserError(
                f"column {column!r} of the {name} split holds {held}: words and tags are lists, one row for each "
                "sentence, which parquet and json can hold and csv cannot"
            )
    if not is_text(split.features[words].feature):
        raise UserError(f"column {words!r} of the {name} split holds lists without words: name another by `text`")


def _check_rows(name: str, split: Dataset, words: str, tags: str) -> None:
    """Every row must be a sentence with a tag for each of its words."""
    rows = list(zip(split[words][:], split[tags][:], strict=True))
    faults = {
        "have no words": [not sentence for sentence, _ in rows],
        "have more or fewer tags than words": [len(sentence or ()) != len(own or ()) for sentence, own in rows],
        "lack a word or a tag (a tag below 0 is none)": [
            None in (sentence or ()) or any(_is_missing(tag) for tag in own or ()) for sentence, own in rows
        ],
    }
    check_rows(name, faults)


def _is_missing(tag: Any) -> bool:
    return tag is None or tag == "" or (isinstance(tag, int) and tag < 0)


def _tag_names(splits: DatasetDict, tags: str) -> list[str]:
    """The names of the tags, in the order of the head's outputs.

    Raises:
        UserError: the splits have tags of different types, or neither names nor classes, or the integers of a column
            of entities have no names.
    """
    features = [split.features[tags].feature for split in splits.values()]
    kinds = {_kind(feature) for feature in features}
    named = [feature for feature in features if isinstance(feature, ClassLabel)]
    distinct = {tag for split in splits.values() for row in split[tags] for tag in row}
    if kinds == {"string"}:
        check_count(len(distinct), tags)
        return sorted(distinct, key=_rank)
    if kinds == {"int"}:
        check_count(max(distinct) + 1, tags)
        return _conventional_names(tags, max(distinct) + 1)
    if kinds <= {"class", "int"} and all(feature == named[0] for feature in named):
        return list(named[0].names)
    raise UserError(
        f"the tags in {tags!r} are of {' and '.join(sorted(kinds))}: make all of them strings, or integers with the "
        "same names"
    )


def _kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return "class"
    dtype = feature.dtype if isinstance(feature, Value) else "lists or records"
    return next((kind for kind in ("int", "string") if kind in dtype), dtype)


def _rank(tag: str) -> tuple[bool, str, str]:
    """Sort key of a tag: O first, then by kind of entity, B before I; tags that do not mark entities by name."""
    part, _, kind = tag.partition("-") if ENTITY.fullmatch(tag) else ("", "", tag)
    return tag != OUTSIDE, kind, part


def _conventional_names(tags: str, count: int) -> list[str]:
    """Names for tags that are integers without names."""
    if tags == "ner_tags" and count == len(CONLL2003):
        return list(CONLL2003)
    if tags.startswith("ner"):
        raise UserError(
            f"the {count} tags in {tags!r} are integers without names, so which entity is which is unknown: "
            "write them as strings such as B-PER, or with a ClassLabel that names them"
        )
    return [f"LABEL_{index}" for index in range(count)]


def check_tags(splits: DatasetDict, tags: str, labels: Sequence[str]) -> None:
    """Refuse splits between which tags cannot be learned.

    Raises:
        UserError: training has a single tag, or validation has one that training lacks.
    """
    train, validation = ({tag for row in splits[name][tags] for tag in row} for name in ("train", "validation"))
    if len(train) == 1:
        raise UserError(f"all training words have the same tag in {tags!r}: give data with at least two")
    if validation - train:
        unseen = listed([labels[tag] for tag in sorted(validation - train)])
        raise UserError(
            f"validation has tags that no training row has ({unseen}): add training rows, remove these, or use "
            "another seed if validation is split off"
        )


def are_entities(labels: Sequence[str]) -> bool:
    """Whether tags with these names mark entities."""
    return all(name == OUTSIDE or ENTITY.fullmatch(name) for name in labels)
