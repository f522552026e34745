"""The data of question answering: questions, their contexts and gold answers, in any of the forms of SQuAD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from secateur.system.errors import UserError
from secateur.tasks.cells import values_of
from secateur.tasks.columns import check_rows, find_column, no_column, shared_columns, usual_columns
from secateur.tasks.guesses import guess, guessed_label
from secateur.tasks.origin import Splits, origin_of

# Tried in order.
TEXTS = (("question", "context"), ("question", "passage"), ("question", "paragraph"), ("query", "context"))
ANSWERS = ("answers", "answer")
START, IMPOSSIBLE = "answer_start", "is_impossible"
TRUE, FALSE = {"true", "yes", "1", "1.0"}, {"false", "no", "0", "0.0", ""}
"""What a column of truth values may hold, in any case."""

TEXT, NUMBER = Value("string"), Value("int64")
SPLIT = Features({"question": TEXT, "context": TEXT, "answers": List(TEXT), "starts": List(NUMBER)})
"""The columns of a prepared split. `answers` are the gold answers, none if the context does not answer the question;
`starts` are their first characters."""


def prepare(splits: DatasetDict, text: Sequence[str] | None, label: str | None, seed: int) -> Splits:
    """The splits with the columns of `SPLIT`; without a validation split, a part of the contexts becomes it.

    Raises:
        UserError: a column is missing, a row is incomplete, no question of a split has an answer, or all questions of a
            split that has to be divided are of one context.
    """
    origin = origin_of(splits)
    flat = Splits({key: _flat(origin.name(key), split) for key, split in splits.items()}, origin)
    shared = shared_columns(flat)
    columns = (*_text_columns(shared, text), find_column("label", shared, label, ANSWERS))
    read = DatasetDict({key: _read(origin.name(key), split, columns) for key, split in flat.items()})
    whole = read if "validation" in read else _by_context(read["train"], seed)
    return Splits(whole, replace(origin, columns=columns, guesses=_guesses(shared, columns, text, label)))


def _guesses(
    shared: Sequence[str], columns: tuple[str, str, str], text: Sequence[str] | None, label: str | None
) -> tuple[str, ...]:
    """What was guessed about the columns of texts and of answers, of which the user names `text` and `label`."""
    *texts, answers = columns
    others = {name for pair in usual_columns(shared, TEXTS) for name in pair if name not in texts}
    of_texts = () if text else guess("questions and contexts", texts, sorted(others), "--text")
    return (*of_texts, *guessed_label("answers", shared, answers, label, ANSWERS))


def _flat(name: str, split: Dataset) -> Dataset:
    """SQuAD's own form, articles of paragraphs of questions, as one row for each question; other rows unchanged."""
    if "paragraphs" not in split.column_names:
        return split
    try:
        rows = [
            {
                "question": entry.get("question"),
                "context": paragraph.get("context"),
                "answers": [] if entry.get("is_impossible") else entry.get("answers"),
            }
            for article in split["paragraphs"]
            for paragraph in article
            for entry in paragraph["qas"]
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"the {name} split has paragraphs that are not SQuAD's (qas and context in each; {error!r}): give rows "
            "with question, context and answers"
        ) from error
    if not rows:
        raise UserError(f"the {name} split has paragraphs without a question: fill it or remove it")
    return Dataset.from_list(rows)


def _text_columns(shared: Sequence[str], text: Sequence[str] | None) -> tuple[str, str]:
    named = (text,) if isinstance(text, str) else tuple(text or ())
    if named and len(named) != 2:
        raise UserError(f"`text` names {len(named)} columns: name two, that of the question and that of the context")
    found = usual_columns(shared, TEXTS) if not named else [named] * (set(named) <= set(shared))
    if found:
        question, context = found[0]
        return question, context
    raise no_column("text", named, shared)


def _read(name: str, split: Dataset, columns: tuple[str, str, str]) -> Dataset:
    """The rows of a split with the columns of `SPLIT`.

    Raises:
        UserError: a row is incomplete, or none has an answer.
    """
    questions, contexts, answers = (split[column][:] for column in columns)
    unknown = [None] * len(split)
    starts = values_of(split, START) if START in split.column_names else unknown
    said = values_of(split, IMPOSSIBLE) if IMPOSSIBLE in split.column_names else unknown
    impossible = [_is_true(name, value) for value in said]
    gold = [
        ([], []) if no_answer else _gold(own, start)
        for no_answer, own, start in zip(impossible, answers, starts, strict=True)
    ]
    _check_rows(name, questions, contexts, gold)
    if not any(texts for texts, _ in gold):
        raise UserError(f"no question of the {name} split has an answer: name the column of answers by `label`")
    texts, firsts = map(list, zip(*gold, strict=True))
    columns_of_split = {"question": questions, "context": contexts, "answers": texts, "starts": firsts}
    return Dataset.from_dict(columns_of_split, features=SPLIT)


def _is_true(name: str, value: Any) -> bool:
    """Whether a question is said to have no answer; what is missing says nothing."""
    text = "" if value is None or value != value else str(value).strip().casefold()
    if text not in TRUE | FALSE:
        raise UserError(f"column {IMPOSSIBLE!r} of the {name} split holds {value!r}: write true or false")
    return text in TRUE


def _gold(answers: Any, start: Any) -> tuple[list[Any], list[Any]]:
    """Texts and first characters of the gold answers of a row, in any of the forms that a row may have.

    A column of integers with gaps is one of decimals where pandas has written it: whole ones are integers.
    """
    texts, starts = _answers(answers, start)
    return texts, [int(value) if isinstance(value, float) and value.is_integer() else value for value in starts]


def _answers(answers: Any, start: Any) -> tuple[list[Any], list[Any]]:
    if answers is None or answers == "" or answers == []:
        return [], []
    if isinstance(answers, list):
        pairs = [(one.get("text"), one.get(START)) if isinstance(one, dict) else (one, None) for one in answers]
        return [text for text, _ in pairs], [place for _, place in pairs]
    texts, starts = (answers.get("text"), answers.get(START)) if isinstance(answers, dict) else (answers, start)
    if isinstance(texts, list):
        return texts, starts if isinstance(starts, list) else [starts] * len(texts)
    return ([], []) if texts is None else ([str(texts)], [starts])  # a column of years may be numbers


def _check_rows(
    name: str, questions: Sequence[Any], contexts: Sequence[Any], gold: Sequence[tuple[list[Any], list[Any]]]
) -> None:
    faults = {
        "have no question": [not isinstance(text, str) or not text.strip() for text in questions],
        "have no context, or an empty one": [not isinstance(text, str) or not text.strip() for text in contexts],
        f"have an {START} with a fraction, such as 3.5": [any(map(_is_fraction, starts)) for _, starts in gold],
        f"have answers without a text and an {START} for each": [not _is_complete(*own) for own in gold],
    }
    check_rows(name, faults)
    elsewhere = [
        any(context[start : start + len(text)] != text for text, start in zip(*own, strict=True))
        for context, own in zip(contexts, gold, strict=True)
    ]
    check_rows(name, {f"have an answer that is not in its context at {START} (counted in characters)": elsewhere})


def _is_fraction(start: Any) -> bool:
    return isinstance(start, float) and math.isfinite(start)


def _is_complete(texts: Sequence[Any], starts: Sequence[Any]) -> bool:
    named = all(isinstance(text, str) and text.strip() for text in texts)
    return named and len(texts) == len(starts) and all(isinstance(start, int) and start >= 0 for start in starts)


def _by_context(rows: Dataset, seed: int, share: float = 0.1) -> DatasetDict:
    """Training and validation rows of different contexts: a context in both splits would raise the score."""
    contexts: dict[str, list[int]] = {}
    for number, context in enumerate(rows["context"]):
        contexts.setdefault(context, []).append(number)
    if len(contexts) < 2:
        raise UserError(
            f"all {len(rows)} questions are of one context: give a validation split, or questions of at least two"
        )
    groups, chosen = list(contexts.values()), list[int]()
    for place in np.random.default_rng(seed).permutation(len(groups))[:-1]:
        if len(chosen) < max(1, round(share * len(rows))):
            chosen += groups[place]
    kept = np.setdiff1d(np.arange(len(rows)), chosen)
    return DatasetDict(train=rows.select(kept), validation=rows.select(sorted(chosen)))
