"""Files of rows in every form: whole, compressed, cut short, damaged, in pieces, and parallel files.

Right are the rows that were written. A text file does not tell where it ends, so that of one that is cut short its
first rows are right, of which the last may be shorter; a compressed file has a sum, so that nothing but all is right.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Any

from datasets import Dataset
from faults_world import REFUSED, WRONG

from faults_by_kind.endings import Outcome, ending
from secateur.tasks import TASKS

Rows = list[tuple[str, str]]
Case = tuple[str, dict[str, bytes], Callable[[Rows], bool]]
"""What it is, the files by name, and whether the rows that were read are right."""

TEXTS = (
    "a fine film",
    'said "fine", and left',
    "it's 50% off; really",
    "schöner Film 电影 🎬",
    "a\u2028b\x85c",
    " x ",
    "NA",
)
ROWS: Rows = [(f"{TEXTS[n % len(TEXTS)]}, {n}", ("bad", "good")[n % 2]) for n in range(40)]
WITH_LINES: Rows = [(f"two\nlines {n}", label) for n, (_, label) in enumerate(ROWS)]
COLUMNS = ("text", "label")


def _csv(rows: Rows) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return file.getvalue().encode()


def _tsv(rows: Rows) -> bytes:
    return "".join("\t".join(row) + "\n" for row in [COLUMNS, *rows]).encode()


def _objects(rows: Rows) -> list[dict[str, str]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in _objects(rows)).encode()


def _json(rows: Rows) -> bytes:
    return json.dumps(_objects(rows)).encode()


def _parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    Dataset.from_list(_objects(rows)).to_parquet(file)
    return file.getvalue()


FORMS = {"csv": _csv, "tsv": _tsv, "jsonl": _jsonl, "json": _json, "parquet": _parquet}


# What is right


def _all(wanted: Rows, rows: Rows) -> bool:
    return rows == wanted


def _first(wanted: Rows, rows: Rows) -> bool:
    """The first rows, of which the last may be shorter."""
    own = zip(rows[-1:], wanted[len(rows) - 1 :], strict=False)
    return rows[:-1] == wanted[: len(rows) - 1] and all(
        b.startswith(a) for short, row in own for a, b in zip(short, row, strict=True)
    )


def _nothing(rows: Rows) -> bool:
    return False


ALL = partial(_all, ROWS)


# Tables


def _whole() -> Iterator[Case]:
    """Whole files, as editors and systems write them."""
    for form, rows in product(FORMS, (ROWS, WITH_LINES)):
        if not (form == "tsv" and rows is WITH_LINES):
            content = FORMS[form](rows)
            yield f"{form}, {len(content)}", {f"train.{form}": content}, partial(_all, rows)
            yield f"{form}.gz", {f"train.{form}.gz": gzip.compress(content)}, partial(_all, rows)
    for form in ("csv", "tsv", "jsonl", "json"):
        content = FORMS[form](ROWS)
        yield f"{form}, CRLF", {f"train.{form}": content.replace(b"\n", b"\r\n")}, ALL
        yield f"{form}, byte-order mark", {f"train.{form}": b"\xef\xbb\xbf" + content}, ALL
        yield f"{form}, no newline at the end", {f"train.{form}": content.rstrip(b"\n")}, ALL
        yield f"{form}, name in capitals", {f"train.{form.upper()}": content}, ALL
        halves = gzip.compress(content[:700]) + gzip.compress(content[700:])
        yield f"{form}.gz of two members", {f"train.{form}.gz": halves}, ALL


def _cut(draw: random.Random, count: int) -> Iterator[Case]:
    """Files that end too early."""
    for form in FORMS:
        content = FORMS[form](ROWS)
        right = partial(_first if form in ("csv", "tsv", "jsonl") else _all, ROWS)
        for end in (draw.randrange(len(content)) for _ in range(count)):
            yield f"{form} at {end} of {len(content)}", {f"train.{form}": content[:end]}, right
            packed = gzip.compress(content)
            end = end * len(packed) // len(content)
            yield f"{form}.gz at {end} of {len(packed)}", {f"train.{form}.gz": packed[:end]}, _nothing


def _flipped(draw: random.Random, count: int) -> Iterator[Case]:
    """Compressed files with a bit flipped, or with bytes after the end."""
    for form in FORMS:
        packed = gzip.compress(FORMS[form](ROWS), mtime=0)
        for place in (draw.randrange(len(packed)) for _ in range(count)):
            damaged = bytearray(packed)
            damaged[place] ^= 1 << draw.randrange(8)
            yield f"{form}.gz at {place} of {len(packed)}", {f"train.{form}.gz": bytes(damaged)}, ALL
        yield f"{form}.gz, and more", {f"train.{form}.gz": packed + draw.randbytes(9)}, ALL


def _misnamed() -> Iterator[Case]:
    """Files of another form than their names say, and files that are compressed twice or not at all."""
    for inner, name in permutations(FORMS, 2):
        yield f"{inner} called {name}", {f"train.{name}": FORMS[inner](ROWS)}, ALL
    for form in FORMS:
        content = FORMS[form](ROWS)
        yield f"{form}, not compressed", {f"train.{form}.gz": content}, ALL
        yield f"{form}, compressed", {f"train.{form}": gzip.compress(content)}, ALL
        yield f"{form}, compressed twice", {f"train.{form}.gz": gzip.compress(gzip.compress(content))}, ALL


def _crafted() -> Iterator[Case]:
    """Tables whose quotes, cells or lines do not fit."""
    plain: Rows = [(f"a film {n}", label) for n, (_, label) in enumerate(ROWS)]
    table, lines = _csv(plain).decode(), _jsonl(plain).decode()
    right = partial(_all, plain)
    for case, old, new in (
        ("a quote that is not closed", "a film 7,", '"a film 7,'),
        ("a quote that is not closed in the last row", "a film 39,", '"a film 39,'),
        ("a cell too few", "a film 7,good\n", "a film 7\n"),
        ("a cell too many", "a film 7,good\n", "a film 7,good,\n"),
        ("no header", "text,label\n", ""),
        ("a name twice", "text,label", "text,text"),
        ("a name without letters", "text,label", "text,"),
        ("no UTF-8", "a film 7", "a f\udcfflm 7"),
    ):
        yield f"csv, {case}", {"train.csv": table.replace(old, new).encode(errors="surrogateescape")}, _nothing
    yield (
        "csv, quotes within a cell",
        {"train.csv": table.replace("a film 7", 'a "film" 7').encode()},
        partial(_all, [(t.replace("a film 7", 'a "film" 7'), own) for t, own in plain]),
    )
    yield "csv, text after a quote", {"train.csv": table.replace("a film 7", '"a film" 7').encode()}, right
    yield "csv, another separator", {"train.csv": table.replace(",", ";").encode()}, right
    yield "csv, a blank line", {"train.csv": table.replace("a film 7", "\na film 7").encode()}, right
    for case, old, new in (
        ("two objects in a line", "}\n", "} "),
        ("commas after objects", "}\n", "},\n"),
        ("a key missing in a row", ', "label": "bad"}\n', "}\n"),
        ("a label that is a list", '"label": "bad"', '"label": ["bad"]'),
        ("a text that is a number", '"a film 7"', "7"),
        ("NaN in place of a label", '"label": "bad"', '"label": NaN'),
        ("a key twice", '"label": "bad"', '"label": "good", "label": "bad"'),
        ("no quotes", '"', "'"),
    ):
        yield f"jsonl, {case}", {"train.jsonl": lines.replace(old, new).encode()}, _nothing
    yield "jsonl, blank lines", {"train.jsonl": lines.replace("\n", "\n\n").encode()}, right


def _pieces() -> Iterator[Case]:
    """Splits in several pieces, all of them or not."""
    for form, first in product(FORMS, range(3)):
        pieces = {f"train-{n:05}-of-00003.{form}": FORMS[form](ROWS[10 * n :][: 10 + 10 * (n == 2)]) for n in range(3)}
        yield f"{form}, all", pieces, ALL
        yield (
            f"{form}, without piece {first}",
            {name: piece for name, piece in pieces.items() if f"-{first:05}" not in name},
            _nothing,
        )


# Parallel lines


def _parallel() -> Iterator[Case]:
    """Two files of lines, whole, compressed, or of different lengths."""
    pairs: Rows = [(f"{text}", f"Ziel {text}") for text, _ in ROWS]
    en, de = ("".join(f"{row[side]}\n" for row in pairs).encode() for side in range(2))
    right = partial(_all, pairs)
    for case, left, other in (
        ("whole", en, de),
        ("CRLF in one", en.replace(b"\n", b"\r\n"), de),
        ("no newline at the end of one", en[:-1], de),
        ("a byte-order mark before one", b"\xef\xbb\xbf" + en, de),
    ):
        yield case, {"train.en": left, "train.de": other}, right
        yield f"{case}, one compressed", {"train.en": left, "train.de.gz": gzip.compress(other)}, right
        yield f"{case}, txt", {"train.en.txt": left, "train.de.txt": other}, right
    for case, other in (
        ("a line less", de[: de.rindex(b"Ziel")]),
        ("a line more", de + b"Ziel\n"),
        ("an empty line more", de + b"\n"),
        ("an empty line in between", de.replace(b"\n", b"\n\n", 1)),
        ("no lines", b""),
        ("no UTF-8", de.replace("ö".encode(), b"\xf6")),
        ("compressed under a plain name", gzip.compress(de)),
    ):
        yield f"{case} in one", {"train.en": en, "train.de": other}, _nothing
    yield "one compressed and cut short", {"train.en": en, "train.de.gz": gzip.compress(de)[:-9]}, _nothing
    yield "one side twice", {"train.en": en, "train.de": de, "train.de.gz": gzip.compress(de)}, _nothing


# The judge


def data_forms(root: Path, scale: float) -> Iterator[Outcome]:
    """All kinds; of random damage as many places as the scale says."""
    draw, count = random.Random(0), max(1, round(20 * scale))
    kinds: dict[str, Iterator[Case]] = {
        "a data file, whole": _whole(),
        "a data file, cut short": _cut(draw, count),
        "a data file, compressed and damaged": _flipped(draw, count),
        "a data file, of another form than its name": _misnamed(),
        "a data file, with quotes, cells or keys that do not fit": _crafted(),
        "data in pieces": _pieces(),
        "parallel files": _parallel(),
    }
    for kind, cases in kinds.items():
        for case, files, right in cases:
            (root / "data").mkdir()
            for name, content in files.items():
                (root / "data" / name).write_bytes(content)
            verdict, said = ending(partial(_fault, root / "data", right, kind == "parallel files"))
            whole = right is not _nothing and kind in ("a data file, whole", "data in pieces", "parallel files")
            yield kind, WRONG if whole and verdict == REFUSED else verdict, case, said
            shutil.rmtree(root / "data")


def _fault(folder: Path, right: Callable[[Rows], bool], parallel: bool) -> str:
    """What is wrong with the rows that are read."""
    options: dict[str, Any] = {"metric": None, "seed": 0, "rows": None}
    if parallel:
        (folder / "validation.jsonl").write_text(json.dumps({"en": "a", "de": "b"}))
        task = TASKS.get("translation").from_data(str(folder), **options | {"text": "en", "label": "de"})
    else:
        (folder / "validation.jsonl").write_bytes(_jsonl(ROWS[:2]))
        task = TASKS.get("classification").from_data(str(folder), **options)
    train = task.splits["train"]
    first, second = (train[name][:] for name in train.column_names)
    rows = list(zip(first, second if parallel else [(task.labels or ())[number] for number in second], strict=True))
    return "" if right(rows) else f"{len(rows)} rows were read, the last is {rows[-1]}"
