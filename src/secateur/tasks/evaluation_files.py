"""Files that embeddings are scored by: pairs of texts with a number, and retrieval in the form of BEIR."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from secateur.system.errors import UserError
from secateur.system.packages import require
from secateur.tasks.cells import NUMBERS, are_numbers
from secateur.tasks.columns import holds_text, listed, usual_columns
from secateur.tasks.data_files import READERS, form, reading
from secateur.tasks.embedding_data import TEXT
from secateur.tasks.embedding_scores import Evaluation, Retrieval, ScoredPairs

log = logging.getLogger(__name__)

PAIR_COLUMNS = (
    ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2"), ("text_a", "text_b"),
    ("anchor", "positive"),
)  # fmt: skip
SCORE_COLUMNS = ("score", "similarity", "similarity_score", "relatedness_score", "label", "labels")
"""Names of the number; SICK has a class by the name label beside its relatedness_score."""
IDENTIFIERS = ("_id", "id", "idx", "index", "pair_id")
"""Names of columns that number the rows."""
QRELS, TEST = "qrels", "test"
"""The folder that says which documents answer a query, and the name in it of the file that counts of several."""


def read_evaluation(place: str) -> Evaluation:
    """A file of pairs with scores, or a folder with queries, a corpus and qrels in the form of BEIR.

    Args:
        place: of such a folder the path of one file in its `qrels` chooses among several, as `msmarco/qrels/dev.tsv`.

    Raises:
        UserError: it is neither, cannot be read, or lacks a column.
        MissingPackage: sentence-transformers is not installed.
    """
    require(("sentence_transformers",), "embeddings")
    path = Path(place).expanduser()
    if path.is_dir():
        return _read_retrieval(path, _qrels_file(path))
    if not path.is_file() or form(path) not in READERS:
        raise UserError(
            f"evaluation {place!r} is neither a file of pairs (csv, jsonl or parquet with two texts and a score) nor "
            "a folder with corpus, queries and qrels: give one of these"
        )
    parent = path.absolute().parent
    return _read_retrieval(parent.parent, path) if parent.name == QRELS else _read_pairs(path)


def _rows_of(path: Path) -> Dataset:
    with reading(path):
        return READERS[form(path)](path)


# Pairs


def _read_pairs(path: Path) -> ScoredPairs:
    rows = _rows_of(path)
    pair, score = _pair_columns(rows), _score_column(rows)
    if pair is None or score is None:
        raise UserError(
            f"{path} has the columns {listed(rows.column_names)}: expected two texts, named as "
            f"{', '.join(map(' and '.join, PAIR_COLUMNS))} or the only two columns of text, and a number, named "
            f"{', '.join(SCORE_COLUMNS)} or the only column of numbers"
        )
    one, other = ([(text or "").strip() for text in rows[name][:]] for name in pair)
    try:
        gold = [float(value) for value in rows[score][:]]
    except (TypeError, ValueError) as error:
        raise UserError(f"the column {score!r} of {path} holds {error}: give a number in every row") from error
    if len(gold) < 2 or not np.isfinite(gold).all() or not all(one) or not all(other):
        raise UserError(f"{path} lacks a text or a number, or has fewer than 2 rows: fill or remove such rows")
    return ScoredPairs(list(zip(one, other, strict=True)), gold)


def _pair_columns(rows: Dataset) -> tuple[str, ...] | None:
    """The columns of the two texts: those of usual names, or else the only two that hold text and no numbers."""
    if usual := usual_columns(rows.column_names, PAIR_COLUMNS):
        return usual[0]
    texts = tuple(name for name in rows.column_names if holds_text(rows, name) and not _holds_numbers(rows, name))
    return texts if len(texts) == 2 else None


def _score_column(rows: Dataset) -> str | None:
    """The column of the number: that of a usual name, or else the only one that holds numbers, but for identifiers."""
    if usual := usual_columns(rows.column_names, [(name,) for name in SCORE_COLUMNS]):
        return usual[0][0]
    names = [name for name in rows.column_names if name.casefold() not in IDENTIFIERS]
    numbers = [name for name in names if _holds_numbers(rows, name)]
    return numbers[0] if len(numbers) == 1 else None


def _holds_numbers(rows: Dataset, name: str) -> bool:
    return rows.features[name] in NUMBERS or are_numbers(rows, name)


# Retrieval


def _read_retrieval(folder: Path, qrels: Path) -> Retrieval:
    corpus, queries = (_texts_by_id(_file_of(folder, name)) for name in ("corpus", "queries"))
    relevant: dict[str, list[str]] = {}
    for query, document in _relevant(qrels):
        relevant.setdefault(query, []).append(document)
    asked = [name for name in queries if name in relevant]
    missing = [name for own in relevant.values() for name in own if name not in corpus]
    if missing or not asked:
        what = f"the document {missing[0]!r}, which is not in the corpus" if missing else "no query of its queries"
        raise UserError(f"the qrels of {folder} name {what}: give files that belong together")
    places = {name: number for number, name in enumerate(corpus)}
    return Retrieval(
        [queries[name] for name in asked],
        list(corpus.values()),
        [[places[document] for document in dict.fromkeys(relevant[name])] for name in asked],
    )


def _file_of(folder: Path, name: str) -> Path:
    found = [path for suffix in READERS for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix}.gz")]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder} has no {name}: give a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv or qrels.tsv, "
            "or with these as parquet"
        )
    return path


def _qrels_file(folder: Path) -> Path:
    """The file of the folder `qrels` that is named test, or the only one in it; without such a folder, `qrels.tsv`."""
    found = sorted(path for path in (folder / QRELS).glob("*") if path.is_file() and form(path) in READERS)
    chosen = [path for path in found if path.name.partition(".")[0] == TEST] or found
    if len(chosen) > 1:
        raise UserError(
            f"{folder / QRELS} has {listed([path.name for path in chosen])}: give one of them in place of the folder, "
            f"as {chosen[0]}"
        )
    return chosen[0] if chosen else _file_of(folder, QRELS)


def _texts_by_id(path: Path) -> dict[str, str]:
    """The text of each identifier; a title goes before the text."""
    rows = _rows_of(path)
    names = usual_columns(rows.column_names, [("_id",), ("id",)])
    if not names or TEXT not in rows.column_names:
        raise UserError(f"{path} has the columns {listed(rows.column_names)}: expected _id and text")
    titles = rows["title"][:] if "title" in rows.column_names else [""] * len(rows)
    texts = (f"{title or ''} {text or ''}".strip() for title, text in zip(titles, rows[TEXT][:], strict=True))
    found: dict[str, str] = {}
    for name, text in zip(map(str, rows[names[0][0]][:]), texts, strict=True):
        if found.setdefault(name, text) != text:
            raise UserError(f"{path} has two texts of the _id {name!r}: give each a number of its own")
    return found


def _relevant(path: Path) -> list[tuple[str, str]]:
    """The queries and documents that belong together, those with a score above 0."""
    rows = _rows_of(path)
    columns = usual_columns(rows.column_names, [("query-id", "corpus-id"), ("query_id", "corpus_id")])
    if not columns:
        raise UserError(f"{path} has the columns {listed(rows.column_names)}: expected query-id, corpus-id and score")
    pairs = list(zip(*(rows[name][:] for name in columns[0]), strict=True))
    scores = [1.0] * len(rows)
    if "score" in rows.column_names:
        scores = [_degree(score, pair[1], path) for pair, score in zip(pairs, rows["score"][:], strict=True)]
    if len(degrees := sorted({score for score in scores if score > 0})) > 1:
        log.warning(
            "%s has %d degrees of relevance, from %g to %g, which count alike: ndcg@10 is of relevant or not",
            path, len(degrees), degrees[0], degrees[-1],
        )  # fmt: skip
    return [(str(query), str(document)) for (query, document), score in zip(pairs, scores, strict=True) if score > 0]


def _degree(value: Any, document: Any, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has the score {value!r} of {document}: give a number in every row") from error
