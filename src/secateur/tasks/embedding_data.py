"""The texts of the task `embedding`: single ones, or pairs whose texts belong together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from datasets import Dataset, DatasetDict, concatenate_datasets

from secateur.structure.encoded_rows import EXAMPLE
from secateur.system.errors import UserError
from secateur.tasks.columns import holds_text, listed, no_column, shared_columns, usual_columns
from secateur.tasks.guesses import holds_words
from secateur.tasks.origin import Origin, Splits, origin_of

log = logging.getLogger(__name__)

TEXT, KIND = "text", "kind"
"""The columns of single texts; without a kind they are of none that is stated."""
MEMBER = "member"
"""The column of scored texts by which scores know a text: a number in the split, or a name in the evaluation."""
QUERY, DOCUMENT = "query", "document"
"""The kinds of texts: what is looked for, and what is found. Some models have a prompt for each."""
PAIR = ("anchor", "positive", "negative")
"""The columns of pairs; the last is optional."""
USUAL_PAIRS = (
    ("anchor", "positive", "negative"),
    ("query", "positive", "negative"),
    ("query", "passage", "negative"),
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "passage"),
)
"""What the columns of pairs may be called, in the order of `PAIR`."""
MOST_SCORED = 2000
"""Texts that are scored at most: of each text, the neighbours among all the others are compared."""


def prepare(splits: DatasetDict, text: str | Sequence[str] | None, pairs: bool | None) -> Splits:
    """The splits with the column `TEXT`, each text once, or with those of `PAIR`; empty texts are left out.

    Of pairs a row with an empty text is left out as a whole; how many are is logged.

    Args:
        splits: as read.
        text: the columns of texts; by default all that hold texts.
        pairs: whether a row is a pair; by default if its columns are those of `USUAL_PAIRS`.

    Raises:
        UserError: a column is missing or holds no text, there are no pairs where they are asked for, or nothing is
            left.
    """
    shared, origin = shared_columns(splits), origin_of(splits)
    text = (text,) if isinstance(text, str) else text
    found = usual_columns(shared if text is None else text, USUAL_PAIRS)
    if pairs and not found:
        raise UserError(
            f"the data has no pairs of texts: name their columns as {' or '.join(map(', '.join, USUAL_PAIRS[:3]))}"
        )
    columns = list(text) if text else (list(found[0]) if found else _columns_of_text(splits["train"], shared))
    for name in columns:
        if name not in shared:
            raise no_column("text", columns, shared)
        if not holds_text(splits["train"], name):
            raise UserError(f"column {name!r} holds no text: name others by `text`")
    read = _pairs_of if found and pairs is not False else _texts_of
    own = list(found[0]) if found and pairs is not False else columns
    prepared = {key: read(split, own) for key, split in splits.items()}
    if read is _pairs_of:
        _log_incomplete(splits, own, origin)
    for key, split in prepared.items():
        if not len(split):
            raise UserError(f"the {origin.name(key)} split has no text: fill it, or remove it")
    guesses = _guesses(own, [name for name in shared if name not in own], text, paired=read is _pairs_of)
    return Splits(prepared, replace(origin, columns=tuple(own), guesses=guesses))


def _columns_of_text(split: Dataset, shared: Sequence[str]) -> list[str]:
    """The columns that hold texts of several words, or the only one that holds text."""
    texts = [name for name in shared if holds_text(split, name)]
    found = [name for name in texts if holds_words(split, name)] or texts[: len(texts) == 1]
    if not found:
        raise no_column("text", [], shared)
    return found


def _guesses(
    columns: Sequence[str], others: Sequence[str], asked: Sequence[str] | None, *, paired: bool
) -> tuple[str, ...]:
    if paired:
        return (f"pairs from {listed(columns)} (--task-option pairs=false for single texts)",)
    return () if asked or not others else (f"texts from {listed(columns)}, not {listed(others)} (--text)",)


def _texts_of(split: Dataset, columns: Sequence[str]) -> Dataset:
    """The texts of some columns one by one, each once, in the order of the rows."""
    rows = zip(*(split[name][:] for name in columns), strict=True)
    return Dataset.from_dict({TEXT: _distinct(value for row in rows for value in row)})


def _distinct(values: Iterable[str | None]) -> list[str]:
    stripped = ((value or "").strip() for value in values)
    return list(dict.fromkeys(text for text in stripped if text))


def _pairs_of(split: Dataset, columns: Sequence[str]) -> Dataset:
    """The rows all of whose texts are filled, each once."""
    rows = zip(*([(value or "").strip() for value in split[name][:]] for name in columns), strict=True)
    kept = list(dict.fromkeys(row for row in rows if all(row)))
    return Dataset.from_dict({name: [row[place] for row in kept] for place, name in enumerate(PAIR[: len(columns)])})


def _log_incomplete(splits: DatasetDict, columns: Sequence[str], origin: Origin) -> None:
    """Log how many rows of pairs `_pairs_of` leaves out, and in which columns their texts are empty."""
    for key, split in splits.items():
        empty = {name: [not (value or "").strip() for value in split[name][:]] for name in columns}
        if count := sum(map(any, zip(*empty.values(), strict=True))):
            named = listed([name for name, rows in empty.items() if any(rows)])
            log.warning(
                "%d of %d rows of the %s split are left out: their %s is empty",
                count, len(split), origin.name(key), named,
            )  # fmt: skip


def single_texts(rows: Dataset) -> Dataset:
    """The texts of pairs one by one, each once, with their kinds; single texts stay as they are."""
    if PAIR[0] not in rows.column_names:
        return rows
    found: dict[tuple[str, str], None] = {}
    for row in rows:
        found |= {(row[name], QUERY if name == PAIR[0] else DOCUMENT): None for name in rows.column_names}
    return Dataset.from_dict({TEXT: [text for text, _ in found], KIND: [kind for _, kind in found]})


def kinds_of(splits: Mapping[str, Dataset]) -> set[str | None]:
    """The kinds of the texts of all splits; None for those of no stated kind."""
    found: set[str | None] = set()
    for rows in splits.values():
        paired = PAIR[0] in rows.column_names
        found |= {QUERY, DOCUMENT} if paired else {*(rows.unique(KIND) if KIND in rows.column_names else (None,))}
    return found


def row_by_row(rows: Dataset) -> Dataset:
    """The texts of pairs one by one, with their kinds and `EXAMPLE`, the index of the pair; other texts as they are."""
    if PAIR[0] not in rows.column_names:
        return rows
    names = [name for name in PAIR if name in rows.column_names]
    columns = [rows[name][:] for name in names]
    kinds = [QUERY if name == PAIR[0] else DOCUMENT for name in names]
    return Dataset.from_dict(
        {
            TEXT: [column[number] for number in range(len(rows)) for column in columns],
            KIND: kinds * len(rows),
            EXAMPLE: [number for number in range(len(rows)) for _ in names],
        }
    )


def with_scored_texts(splits: Splits, seed: int) -> Splits:
    """The splits with single texts to score, at most `MOST_SCORED`, none of which is a training text.

    Rows that are left over of those that were split off the training rows are training rows again.
    """
    train, held_out = splits["train"], splits["validation"]
    if splits.origin.scored is None and len(held_out) > MOST_SCORED:
        train = concatenate_datasets([train, held_out.select(range(MOST_SCORED, len(held_out)))])
        held_out = held_out.select(range(MOST_SCORED))
    texts = single_texts(held_out)
    if len(texts) > MOST_SCORED:
        texts = texts.shuffle(seed=seed).select(range(MOST_SCORED))
    texts = texts.add_column(MEMBER, [str(number) for number in range(len(texts))])
    return Splits({"train": _without(train, texts), "validation": texts}, splits.origin)


def without_held_out(splits: Splits, scored: Dataset) -> Splits:
    """The splits with the texts of an evaluation to score; all rows but those with such a text are training rows.

    Documents may be trained on: in use, too, a model knows what it searches, and not what it is asked.
    """
    train = splits["train"]
    if splits.origin.scored is None:
        train = concatenate_datasets([train, splits["validation"]])
    origin = replace(splits.origin, scored="evaluation")
    return Splits({"train": _without(train, scored), "validation": scored}, origin)


def _without(train: Dataset, scored: Dataset) -> Dataset:
    """The training rows none of whose texts is scored.

    Raises:
        UserError: no row is left.
    """
    kinds = scored[KIND] if KIND in scored.column_names else [None] * len(scored)
    texts = {text for text, kind in zip(scored[TEXT], kinds, strict=True) if kind != DOCUMENT}
    columns = [train[name][:] for name in train.column_names]
    left = [number for number, row in enumerate(zip(*columns, strict=True)) if texts.isdisjoint(row)]
    if not left:
        raise UserError("every training text is scored, too: give other texts to train on")
    return train if len(left) == len(train) else train.select(left)
