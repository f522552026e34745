"""The data of translation and summarisation: rows of a source and a target text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset, DatasetDict, Translation

from secateur.system.errors import UserError
from secateur.tasks.cells import are_numbers
from secateur.tasks.columns import holds_text, listed, no_column, usual_columns
from secateur.tasks.guesses import guess
from secateur.tasks.origin import Splits, origin_of

SOURCE, TARGET = "source", "target"
"""The columns of a prepared split."""
RECORD = "translation"
"""The column of translation data on the hub: a record of one text in several languages."""
LANGUAGE = re.compile(r"[a-z]{2,3}([_-][A-Za-z]{2,4})?")  # en, deu, pt_BR, zh-Hans


def prepare(
    splits: DatasetDict, text: str | Sequence[str] | None, label: str | None, usual: Sequence[tuple[str, str]]
) -> Splits:
    """The splits with only the columns `SOURCE` and `TARGET`.

    Args:
        splits: as read; a column `RECORD` counts as a column for each of its languages.
        text, label: the columns of source and target; by default the first of `usual` that exist, or else the languages
            of the data, if there are two.
        usual: pairs of columns to look for, in order.

    Raises:
        UserError: a column is missing or holds no text, both are the same, or a row lacks a text.
    """
    origin = origin_of(splits)
    splits = DatasetDict({key: flat(split) for key, split in splits.items()})
    (source, target), *others = pairs_of(splits["train"], text, label, usual)
    for key, split in splits.items():
        if missing := [column for column in (source, target) if column not in split.column_names]:
            raise UserError(
                f"the {origin.name(key)} split lacks the column {missing[0]!r} of the training split: add it"
            )
    splits = splits.select_columns([source, target])
    splits = DatasetDict({name: _named(split, source, target) for name, split in splits.items()})
    for key, split in splits.items():
        _check_texts(origin.name(key), split, {SOURCE: source, TARGET: target})
        _check_gaps(origin.name(key), split)
    other = others[0] if others else ()
    guesses = guess("sources and targets", (source, target), other, "--text, --label")
    return Splits(splits, replace(origin, columns=(source, target), guesses=guesses))


def flat(split: Dataset) -> Dataset:
    """The split with a column for each language in place of `RECORD`, in the order of the data."""
    feature = split.features.get(RECORD)
    if not isinstance(feature, dict | Translation):
        return split
    names = [*(feature if isinstance(feature, dict) else feature.languages)]
    others = [name for name in split.column_names if name != RECORD and name not in names]
    table = split.select_columns([*others, RECORD]).flatten().with_format("arrow")[:]
    columns = [*others, *(f"{RECORD}.{name}" for name in names)]  # Arrow has the languages in an order of its own
    return Dataset(table.select(columns).rename_columns([*others, *names]))


def columns_of(
    split: Dataset, text: str | Sequence[str] | None, label: str | None, usual: Sequence[tuple[str, str]]
) -> tuple[str, str]:
    """The columns of source and target of the training split; the arguments are those of `prepare`.

    Raises:
        UserError: a column is missing, or both are the same.
    """
    return pairs_of(split, text, label, usual)[0]


def pairs_of(
    split: Dataset, text: str | Sequence[str] | None, label: str | None, usual: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """As `columns_of`, followed by the other pairs of columns that could be meant."""
    shared = split.column_names
    asked = (text,) if isinstance(text, str) else tuple(text or ())
    if len(asked) > 1:
        raise UserError(f"`text` names {len(asked)} columns: name the one that holds the source")
    for option, names in (("text", asked), ("label", (label,) if label else ())):
        if names and names[0] not in shared:
            raise no_column(option, names, shared)
    if asked and label:
        pairs = [(asked[0], label)]
    else:
        candidates = ([(pair[0], pair[1]) for pair in usual_columns(shared, usual)], _languages(split, shared))
        pairs = next(filter(None, ([one for one in own if _agrees(one, asked, label)] for own in candidates)), [])
    if not pairs:
        raise UserError(
            f"the data has no source and target under usual names: name both by `text` and `label`, out of "
            f"{listed(shared, 20)}"
        )
    if pairs[0][0] == pairs[0][1]:
        raise UserError(f"column {pairs[0][0]!r} is both source and target: name another by `text` or `label`")
    return pairs


def _agrees(pair: tuple[str, str], asked: Sequence[str], label: str | None) -> bool:
    return (not asked or pair[0] == asked[0]) and (label is None or pair[1] == label)


def _languages(split: Dataset, shared: Sequence[str]) -> list[tuple[str, str]]:
    """The two columns of text that are named after languages, in both orders; none unless there are exactly two."""
    named = [name for name in shared if LANGUAGE.fullmatch(name) and name != "id" and holds_text(split, name)]
    languages = [name for name in named if not are_numbers(split, name)]
    return [(languages[0], languages[1]), (languages[1], languages[0])] if len(languages) == 2 else []


def _named(split: Dataset, source: str, target: str) -> Dataset:
    """The two columns in this order, renamed at once, because the old name of one may be the new name of the other."""
    texts = split.with_format("arrow")[:]
    return Dataset(texts.select([source, target]).rename_columns([SOURCE, TARGET]))


def _check_texts(name: str, split: Dataset, columns: dict[str, str]) -> None:
    for column, original in columns.items():
        if not holds_text(split, column):
            raise UserError(f"column {original!r} of the {name} split holds no text: name another by `text` or `label`")


def _check_gaps(name: str, split: Dataset) -> None:
    pairs = zip(split[SOURCE][:], split[TARGET][:], strict=True)
    gaps = [number for number, pair in enumerate(pairs) if not all(text and text.strip() for text in pair)]
    if gaps:
        raise UserError(
            f"{len(gaps)} of the {len(split)} rows of the {name} split lack a source or a target (the first is row "
            f"{gaps[0]}, counted from 0): fill or remove them"
        )
