"""Data files as users have them, with what a task must read from them or the error that it must raise.

`tests/test_hard_use.py` and `benchmarks/faults.py` use all of them.
"""

import json
import math
from dataclasses import dataclass

from small_world import config, tokenizer
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from secateur.measure.evaluation import encoded, scores
from secateur.tasks import TASKS

AUTO = {
    "classification": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "questions": AutoModelForQuestionAnswering,
}
MAX_LENGTH = 16


@dataclass(frozen=True)
class Case:
    """Files by name, and the expected `labels` (None for scores) and number of `rows`, or the error message `said`."""

    task: str
    files: dict
    labels: tuple | None = ()
    rows: int = 20
    said: str = ""
    options: tuple = ()

    def write(self, folder):
        for name, content in self.files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(folder / name) if len(self.files) == 1 else str(folder)


def outcome(case, folder):
    """The task of a case, after its rows were read, encoded and scored with a random model."""
    task = TASKS.get(case.task).from_data(case.write(folder), metric=None, seed=0, rows=None, **dict(case.options))
    words = tokenizer()
    for split in task.splits:
        assert all(0 < len(row["input_ids"]) <= MAX_LENGTH for row in encoded(task, split, words, MAX_LENGTH))
    model = AUTO[case.task].from_config(config(**task.head()))
    found = scores(model, task, encoded(task, "validation", words, MAX_LENGTH), words)
    assert all(math.isfinite(score) for score in found.values())
    return task


def right(case, task):
    """Whether a task has the expected labels and number of rows."""
    return task.labels == case.labels and sum(map(len, task.splits.values())) == case.rows


def table(text=None, label=None, rows=20):
    return {"text": text or ["a fine film", "a dull book"] * (rows // 2), "label": label or [0, 1] * (rows // 2)}


def lines(columns):
    """As jsonl."""
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def csv(columns, end="\n"):
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    return end.join(",".join("" if value is None else str(value) for value in row) for row in rows) + end


def words(tags=None, tokens=None, rows=20):
    return {"tokens": tokens or [["a", "film", "book"]] * rows, "ner_tags": tags or [["O", "B-A", "I-A"]] * rows}


def asked(rows=20, **columns):
    """Questions after a word of a context; `columns` replace or add."""
    table = {
        "question": ["a good film"] * rows,
        "context": [f"a fine film of {n}" for n in range(rows)],
        "answers": [{"text": ["fine"], "answer_start": [2]}] * rows,
    }
    return table | columns


def broken(text, number, change=lambda line: line[:-3]):
    """Text in which one line, counted from 1, is not valid JSON."""
    rows = text.split("\n")
    rows[number - 1] = change(rows[number - 1])
    return "\n".join(rows)


TWO, STRINGS, SCORES = ("LABEL_0", "LABEL_1"), ("bad", "good"), [0.5, 2.5]
LONG = "film " * 20_000  # 100,000 characters
CLASSIFICATION, TOKENS, QUESTIONS = "classification", "tokens", "questions"

CASES = {
    # data that is accepted
    "labels are strings": Case(CLASSIFICATION, {"d.csv": csv(table(label=["good", "bad"] * 10))}, STRINGS),
    "labels are strings of digits": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(label=["10", "9"] * 10))}, ("9", "10")
    ),
    "labels are true and false": Case(
        CLASSIFICATION, {"d.csv": csv(table(label=["true", "false"] * 10))}, ("false", "true")
    ),
    "labels are booleans": Case(CLASSIFICATION, {"d.jsonl": lines(table(label=[True, False] * 10))}, ("false", "true")),
    "labels are scores": Case(CLASSIFICATION, {"d.csv": csv(table(label=SCORES * 10))}, None),
    "300 classes": Case(
        CLASSIFICATION,
        {"train.csv": csv(table(label=list(range(300)), rows=300)), "dev.csv": csv(table(rows=2))},
        tuple(f"LABEL_{n}" for n in range(300)),
        302,
    ),
    "a byte-order mark before csv": Case(CLASSIFICATION, {"d.csv": "\ufeff" + csv(table())}, TWO),
    "a byte-order mark before jsonl": Case(CLASSIFICATION, {"d.jsonl": "\ufeff" + lines(table())}, TWO),
    "csv with CRLF": Case(CLASSIFICATION, {"d.csv": csv(table(), "\r\n")}, TWO),
    "tsv with CRLF": Case(CLASSIFICATION, {"d.tsv": csv(table(), "\r\n").replace(",", "\t")}, TWO),
    "jsonl with CRLF": Case(CLASSIFICATION, {"d.jsonl": lines(table()).replace("\n", "\r\n")}, TWO),
    "no newline at the end": Case(CLASSIFICATION, {"d.jsonl": lines(table())[:-1]}, TWO),
    "blank lines in jsonl": Case(CLASSIFICATION, {"d.jsonl": lines(table()).replace("\n", "\n\n")}, TWO),
    "texts of 100,000 characters": Case(CLASSIFICATION, {"d.jsonl": lines(table(text=[LONG, "a film"] * 10))}, TWO),
    "a word of 100,000 characters": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(text=["x" * 100_000, "a"] * 10))}, TWO
    ),
    "a pair, one half of 100,000 characters": Case(
        CLASSIFICATION,
        {"d.jsonl": lines({"text1": [LONG] * 20, "text2": ["a"] * 20, "label": [0, 1] * 10})},
        TWO,
    ),
    "one row to evaluate on": Case(
        CLASSIFICATION, {"train.csv": csv(table()), "dev.csv": csv(table(["a film"], [1], 1))}, TWO, 21
    ),
    "one score to evaluate on": Case(
        CLASSIFICATION,
        {"train.csv": csv(table(label=SCORES * 10)), "dev.csv": csv(table(["a film"], [1.5], 1))},
        None,
        21,
    ),
    "a class that is not evaluated": Case(
        CLASSIFICATION, {"train.csv": csv(table()), "dev.csv": csv(table(label=[1, 1], rows=2))}, TWO, 22
    ),
    "texts are not ASCII": Case(
        CLASSIFICATION, {"d.csv": csv(table(text=["ein schöner Film 电影 🎬", "нет"] * 10))}, TWO
    ),
    # data that is refused
    "a label is missing": Case(CLASSIFICATION, {"d.csv": csv(table(label=[0, 1] * 9 + [None, 1]))}, said="row 18"),
    "a text is empty": Case(CLASSIFICATION, {"d.jsonl": lines(table(text=["a", " "] * 10))}, said="10 of the 20 rows"),
    "all texts are empty": Case(CLASSIFICATION, {"d.csv": csv(table(text=["", ""] * 10))}, said="'text'.*is empty"),
    "one class": Case(CLASSIFICATION, {"d.csv": csv(table(label=[1] * 20))}, said="the same label"),
    "one row": Case(CLASSIFICATION, {"d.csv": csv(table(["a"], [1], 1))}, said="1 row"),
    "no rows": Case(CLASSIFICATION, {"d.csv": "text,label\n"}, said="no rows"),
    "an empty file": Case(CLASSIFICATION, {"d.csv": ""}, said="cannot be read"),
    "an empty file of lines": Case(CLASSIFICATION, {"d.jsonl": ""}, said="no rows"),
    "no label": Case(CLASSIFICATION, {"d.csv": csv({"text": ["a"] * 20, "mood": [0] * 20})}, said="no label"),
    "no text": Case(CLASSIFICATION, {"d.csv": csv({"title": ["a"] * 20, "label": [0] * 20})}, said="no text"),
    "a column missing in validation": Case(
        CLASSIFICATION, {"train.csv": csv(table()), "dev.csv": csv({"text": ["a"] * 2})}, said="'dev' lacks the column"
    ),
    "two columns of one name": Case(
        CLASSIFICATION, {"d.csv": csv(table()).replace("text", "label", 1)}, said="'label'.*twice"
    ),
    "two keys of one name": Case(
        CLASSIFICATION, {"d.jsonl": lines(table()).replace('{"text"', '{"label": 1, "text"')}, said="'label'.*twice"
    ),
    "line 7 is broken": Case(CLASSIFICATION, {"d.jsonl": broken(lines(table()), 7)}, said="line 7"),
    "line 1 is broken": Case(CLASSIFICATION, {"d.jsonl": broken(lines(table()), 1)}, said="line 1"),
    "the last line is cut": Case(CLASSIFICATION, {"d.jsonl": lines(table())[:-9]}, said="line 20"),
    "a line is no object": Case(
        CLASSIFICATION, {"d.jsonl": broken(lines(table()), 3, lambda line: "7")}, said="not objects"
    ),
    "a list that is not closed": Case(
        CLASSIFICATION, {"d.json": json.dumps([{"text": "a", "label": 1}] * 9)[:-1]}, said="line 1"
    ),
    "brackets without end": Case(CLASSIFICATION, {"d.json": "[" * 100_000}, said="cannot be read"),
    "a row with a cell too many": Case(CLASSIFICATION, {"d.csv": csv(table()) + "a,1,2\n"}, said="cannot be read"),
    "no UTF-8": Case(CLASSIFICATION, {"d.csv": csv(table(text=["schön", "öde"] * 10)).encode("latin-1")}, said="d.csv"),
    "UTF-16": Case(CLASSIFICATION, {"d.jsonl": lines(table()).encode("utf-16")}, said="cannot be read"),
    "half a surrogate": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(text=["a", "\ud800"] * 10))}, said="cannot be read"
    ),
    "a score is no number": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(label=[0.5] * 19 + [math.nan]))}, said="row 19"
    ),
    "a score is infinite": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(label=[0.5] * 19 + [math.inf]))}, said="row 19"
    ),
    "a score is infinite in csv": Case(
        CLASSIFICATION, {"d.csv": csv(table(label=[0.5] * 18 + ["-inf", 2]))}, said="row 18"
    ),
    "a score is too large": Case(CLASSIFICATION, {"d.csv": csv(table(label=[0.5] * 18 + [1e300, 2]))}, said="row 18"),
    "labels of several kinds": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(label=[0, "one"] * 10))}, said="cannot be read"
    ),
    "labels beyond 64 bits": Case(
        CLASSIFICATION, {"d.jsonl": lines(table(label=[0, 2**70] * 10))}, said="cannot be read"
    ),
    "labels are numbers of people": Case(
        CLASSIFICATION, {"d.csv": csv(table(label=[0, 1_700_000_000] * 10))}, said="1,700,000,001 classes"
    ),
    "labels are all different": Case(
        CLASSIFICATION, {"d.csv": csv(table(label=[f"id{n}" for n in range(400)], rows=400))}, said="and 32 more"
    ),
    "validation has a new label": Case(
        CLASSIFICATION, {"train.csv": csv(table()), "dev.csv": csv(table(label=[1, 5], rows=2))}, said="LABEL_5"
    ),
    "validation has other names": Case(
        CLASSIFICATION,
        {"train.csv": csv(table(label=["yes", "no"] * 10)), "dev.csv": csv(table(label=[0, 1], rows=2))},
        said=r"no training row has \(0, 1\)",
    ),
    # words
    "tags in jsonl": Case(TOKENS, {"d.jsonl": lines(words())}, ("O", "B-A", "I-A")),
    "sentences of 100,000 characters": Case(
        TOKENS,
        {"d.jsonl": lines(words([["O", "B-A"] * 10_000] * 4, [["film", "book"] * 10_000] * 4, 4))},
        ("O", "B-A"),
        4,
    ),
    "one word of 100,000 characters": Case(
        TOKENS, {"d.jsonl": lines(words(tokens=[["x" * 100_000, "film", "a"]] * 20))}, ("O", "B-A", "I-A")
    ),
    "an empty word": Case(TOKENS, {"d.jsonl": lines(words(tokens=[["a", "", "film"]] * 20))}, ("O", "B-A", "I-A")),
    "one sentence to evaluate on": Case(
        TOKENS, {"train.jsonl": lines(words()), "dev.jsonl": lines(words(rows=1))}, ("O", "B-A", "I-A"), 21
    ),
    "tags with a byte-order mark and CRLF": Case(
        TOKENS, {"d.jsonl": ("\ufeff" + lines(words())).replace("\n", "\r\n")}, ("O", "B-A", "I-A")
    ),
    "a sentence without words": Case(
        TOKENS, {"d.jsonl": lines(words([["O", "B-A"]] * 19 + [[]], [["a", "b"]] * 19 + [[]]))}, said="row 19"
    ),
    "a tag is missing": Case(TOKENS, {"d.jsonl": lines(words([["O", None, "B-A"]] * 20))}, said="lack a word or a tag"),
    "a tag too few": Case(TOKENS, {"d.jsonl": lines(words([["O", "B-A"]] * 20))}, said="more or fewer tags"),
    "one tag": Case(TOKENS, {"d.jsonl": lines(words([["O", "O", "O"]] * 20))}, said="the same tag"),
    "tags are numbers of people": Case(
        TOKENS, {"d.jsonl": lines({"words": [["a", "b"]] * 9, "tags": [[0, 10**9]] * 9})}, said="classes"
    ),
    "tags are numbers with a point": Case(TOKENS, {"d.jsonl": lines(words([[0.0, 1.0, math.nan]] * 20))}, said="tags"),
    "tags are booleans": Case(TOKENS, {"d.jsonl": lines(words([[True, False, True]] * 20))}, said="bool"),
    "tags in csv": Case(TOKENS, {"d.csv": "tokens,ner_tags\na film,O O\n"}, said="csv cannot"),
    "line 7 of tags is broken": Case(TOKENS, {"d.jsonl": broken(lines(words()), 7)}, said="line 7"),
    "validation has a new tag": Case(
        TOKENS, {"train.jsonl": lines(words()), "dev.jsonl": lines(words([["O", "B-B", "O"]], rows=1))}, said="B-B"
    ),
    # questions
    "questions as on the hub": Case(QUESTIONS, {"d.jsonl": lines(asked())}, None),
    "questions with a byte-order mark and CRLF": Case(
        QUESTIONS, {"d.jsonl": ("\ufeff" + lines(asked())).replace("\n", "\r\n")}, None
    ),
    "questions in csv": Case(
        QUESTIONS,
        {
            "d.csv": csv(
                asked(answer=[5] * 20, answer_start=[0] * 20, context=[f"5 of {n}" for n in range(20)])
                | {"answers": [None] * 20}
            )
        },
        None,
        options=(("label", "answer"),),
    ),
    "questions without an answer": Case(
        QUESTIONS, {"d.jsonl": lines(asked(answers=[{"text": ["fine"], "answer_start": [2]}, None] * 10))}, None
    ),
    "a context of a thousand words": Case(
        QUESTIONS, {"d.jsonl": lines(asked(4, context=[f"a fine {'film ' * 1000}{n}" for n in range(4)]))}, None, 4
    ),
    "a context that is one word of 100,000 characters": Case(
        QUESTIONS,
        {
            "d.jsonl": lines(
                asked(
                    context=["x" * 100_000 + str(n) for n in range(20)],
                    answers=[{"text": ["x"], "answer_start": [9]}] * 20,
                )
            )
        },
        None,
    ),
    "a question of 100,000 characters": Case(QUESTIONS, {"d.jsonl": lines(asked(question=[LONG] * 20))}, None),
    "contexts are not ASCII": Case(
        QUESTIONS,
        {
            "d.jsonl": lines(
                asked(
                    context=[f"🎬 schöner 电影 {n}" for n in range(20)],
                    answers=[{"text": ["电影"], "answer_start": [10]}] * 20,
                )
            )
        },
        None,
    ),
    "a context is empty": Case(
        QUESTIONS, {"d.jsonl": lines(asked(context=["a fine film"] * 19 + [" "]))}, said="row 19"
    ),
    "a question is missing": Case(QUESTIONS, {"d.jsonl": lines(asked(question=["a"] * 19 + [None]))}, said="row 19"),
    "an answer is elsewhere": Case(
        QUESTIONS,
        {"d.jsonl": lines(asked(answers=[{"text": ["fine"], "answer_start": [3]}] * 20))},
        said="is not in its context",
    ),
    "an answer starts beyond 64 bits": Case(
        QUESTIONS,
        {"d.jsonl": lines(asked(answers=[{"text": ["fine"], "answer_start": [2**70]}] * 20))},
        said="cannot be read",
    ),
    "an answer starts within a character": Case(
        QUESTIONS, {"d.jsonl": lines(asked(answers=[{"text": ["fine"], "answer_start": [2.5]}] * 20))}, said="fraction"
    ),
    "answers without a place": Case(QUESTIONS, {"d.jsonl": lines(asked(answers=["fine"] * 20))}, said="for each"),
    "no answers at all": Case(QUESTIONS, {"d.jsonl": lines(asked(answers=[None] * 20))}, said="has an answer"),
    "one context": Case(QUESTIONS, {"d.jsonl": lines(asked(context=["a fine film"] * 20))}, said="one context"),
    "questions without a context": Case(
        QUESTIONS, {"d.jsonl": lines({"question": ["a"] * 20, "answers": ["b"] * 20})}, said="no text"
    ),
    "nested without questions": Case(
        QUESTIONS, {"d.json": json.dumps({"data": [{"title": "a", "paragraphs": []}] * 3})}, said="without a question"
    ),
    "two keys of tags": Case(
        TOKENS, {"d.jsonl": lines(words()).replace('{"tokens"', '{"ner_tags": ["O"], "tokens"')}, said="twice"
    ),
}
