"""The data of token classification: sentences as lists of words, with a tag for each word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value

from secateur.system.errors import UserError, as_user_error
from secateur.tasks.columns import check_rows, find_column, is_text, listed, shared_columns
from secateur.tasks.guesses import guess, guessed_label
from secateur.tasks.labels import Labels, distinct, only_numbered, read_labels
from secateur.tasks.origin import Splits, origin_of
from secateur.tasks.tag_schemes import rank

# Tried in order. Of the tags, those of entities come first.
WORDS = ("tokens", "words", "sentence", "text")
TAGS = ("ner_tags", "ner", "tags", "labels", "label", "pos_tags", "pos", "upos", "chunk_tags")


def prepare(
    splits: DatasetDict, text: str | Sequence[str] | None, label: str | None, labels: Sequence[str] | None = None
) -> Splits:
    """The splits with only the columns in use, words first and tags last, and tags by index.

    Args:
        splits: as read.
        text, label: the columns of words and of tags; by default the first of `WORDS` and of `TAGS` that exist.
        labels: the tags in the order of the head's outputs, or names for integers from 0.

    Raises:
        UserError: a column is missing or holds no lists, a row is incomplete, or the tags have no names.
    """
    shared, origin = shared_columns(splits), origin_of(splits)
    named = (text,) if isinstance(text, str) else tuple(text or ())
    if len(named) > 1:
        raise UserError(f"`text` names {len(named)} columns: name the one that holds the words")
    words = find_column("text", shared, named[0] if named else None, WORDS)
    tags = find_column("label", shared, label, TAGS)
    if words == tags:
        raise UserError(f"column {words!r} is both words and tags: name another by `text` or `label`")
    guesses = _guesses(splits["train"], shared, (words, tags), named, label)
    splits = splits.select_columns([words, tags])
    for key, split in splits.items():
        _check_kinds(origin.name(key), split, words, tags)
        _check_rows(origin.name(key), split, words, tags, labels or ())
    splits = _same_names(splits, tags)
    return Splits(_labels(splits, tags, labels).indexed(splits, tags), replace(origin, guesses=guesses))


def _guesses(
    split: Dataset, shared: Sequence[str], taken: tuple[str, str], text: Sequence[str], label: str | None
) -> tuple[str, ...]:
    """What was guessed about the columns of words and of tags, of which the user names `text` and `label`."""
    lists = [name for name in shared if isinstance(split.features[name], List | LargeList)]
    words, tags = taken
    others = [name for name in lists if name in WORDS and name != words]
    of_words = () if text else guess("words", [words], others, "--text")
    return (*of_words, *guessed_label("tags", lists, tags, label, TAGS, used={words}))


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


def _check_rows(name: str, split: Dataset, words: str, tags: str, asked: Sequence[str]) -> None:
    """Every row must be a sentence with a tag for each of its words."""
    rows = list(zip(split[words][:], split[tags][:], strict=True))
    faults = {
        "have no words": [not sentence for sentence, _ in rows],
        "have more or fewer tags than words": [len(sentence or ()) != len(own or ()) for sentence, own in rows],
        "lack a word or a tag (a tag below 0 is none unless --labels names it)": [
            None in (sentence or ()) or any(_is_missing(tag, asked) for tag in own or ()) for sentence, own in rows
        ],
    }
    check_rows(name, faults)


def _is_missing(tag: Any, asked: Sequence[str]) -> bool:
    return tag is None or tag == "" or (isinstance(tag, int) and tag < 0 and str(tag) not in asked)


def _labels(splits: DatasetDict, tags: str, asked: Sequence[str] | None) -> Labels:
    """The tags, in the order of the head's outputs.

    Raises:
        UserError: the splits have tags of different types, or neither names nor classes.
    """
    kinds = {_kind(split.features[tags].feature) for split in splits.values()}
    if len(kinds) > 1 or not kinds <= {"class", "int", "string"}:
        raise UserError(
            f"the tags in {tags!r} are of {' and '.join(sorted(kinds))}: make all of them strings, or integers with "
            "the same names"
        )
    names = sorted(distinct(splits, tags), key=rank) if kinds == {"string"} else None
    return read_labels(splits, tags, asked, names)


def _same_names(splits: DatasetDict, tags: str) -> DatasetDict:
    """The splits, of which those with integers have the names that the others have for them."""
    features = [split.features[tags].feature for split in splits.values()]
    named = [feature for feature in features if isinstance(feature, ClassLabel)]
    others = {_kind(feature) for feature in features if not isinstance(feature, ClassLabel)}
    if named and others == {"int"} and all(feature == named[0] for feature in named):
        with as_user_error(f"the tags in {tags!r} cannot be read", "give every tag a name"):
            return splits.cast_column(tags, List(named[0]))
    return splits


def check_named(tags: str, labels: Sequence[str]) -> None:
    """Refuse a column of entities whose tags are integers to which neither the data nor a model gives names.

    Raises:
        UserError: it is one.
    """
    if tags.casefold().startswith("ner") and only_numbered(labels):
        raise UserError(
            f"the tags in {tags!r} are integers without names, and the model has none for them, so which entity is "
            "which is unknown: name them in the order of their numbers by --labels (data.labels), or write them as "
            "strings such as B-PER, or with a ClassLabel"
        )


def _kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return "class"
    dtype = feature.dtype if isinstance(feature, Value) else "lists or records"
    return next((kind for kind in ("int", "string") if kind in dtype), dtype)


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
            f"the {origin_of(splits).rows} have tags that no training row has ({unseen}): add training rows, remove "
            "these, or use another seed if the rows are split off"
        )
