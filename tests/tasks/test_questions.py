"""Questions: the data that is read and refused, windows and their labels, scores over all windows, the whole job."""

import json
import re
import shutil
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame
from small_world import config as bert
from small_world import recipe_values, tokenizer, write_model, write_questions
from test_tokens import bytes_of_words
from tiny_models import ENCODERS, tiny
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    EvalPrediction,
    RobertaConfig,
    RobertaForQuestionAnswering,
    TrainingArguments,
    pipeline,
)

from secateur.budget.space import Space
from secateur.deploy.export import export, opened
from secateur.measure.evaluation import batches, encoded, runner_scores, scores, standard_error
from secateur.measure.sensitivity import sensitivity
from secateur.methods import METHODS
from secateur.report.report import Report
from secateur.run import pipeline as stages
from secateur.run import recipe
from secateur.run.run_data import RunData
from secateur.surgery import checkpoint
from secateur.system.errors import UserError
from secateur.tasks import TASKS, repositories
from secateur.tasks import task as contract
from secateur.tasks.question_data import SPLIT
from secateur.tasks.questions import Questions, answer
from secateur.tasks.windows import WindowCollator
from secateur.training.objectives import Hidden, Labels, Logits, Step
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.trainer import PruningTrainer

QUICK = settings(max_examples=40, derandomize=True, deadline=None, database=None)
CONTEXT = "a fine film and a dull book"


def row(question="a film", context=CONTEXT, answers=("fine",)):
    """A row of a split; each answer stands where it is first found."""
    return {
        "question": question,
        "context": context,
        "answers": list(answers),
        "starts": [context.index(text) for text in answers],
    }


def split(*rows):
    return Dataset.from_list(list(rows), features=SPLIT)


def task_of(*rows, metric="f1", **options):
    """A task of these validation rows."""
    found = split(*rows)
    return Questions(
        DatasetDict(train=found, validation=found), metric, not all(one["answers"] for one in rows), **options
    )


# ---- what it reads


def hub(count=20, **columns):
    """`count` rows as on the hub: a context for every two questions."""
    table = {
        "id": [f"q{n}" for n in range(count)],
        "title": ["x"] * count,
        "context": [f"In {1900 + n // 2} Ada saw a film." for n in range(count)],
        "question": [("when?", "who?")[n % 2] for n in range(count)],
        "answers": [
            {"text": [("Ada", str(1900 + n // 2))[n % 2 == 0]], "answer_start": [(8, 3)[n % 2 == 0]]}
            for n in range(count)
        ],
    }
    return table | columns


def nested(table, version="1.1", **more):
    """The same rows as SQuAD's own files have them."""
    paragraphs: dict = {}
    for context, name, question, gold in zip(
        *(table[k] for k in ("context", "id", "question", "answers")), strict=True
    ):
        pairs = zip(gold["text"], gold["answer_start"], strict=True)
        asked = {"id": name, "question": question, "answers": [{"text": t, "answer_start": s} for t, s in pairs]}
        paragraphs.setdefault(context, []).append(asked | more)
    articles = [{"title": "x", "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs.items()]}]
    return json.dumps({"version": version, "data": articles})


def lines(table):
    return "".join(
        json.dumps(dict(zip(table, values, strict=True))) + "\n" for values in zip(*table.values(), strict=True)
    )


def as_csv(table):
    """A column of texts beside one of places; csv can hold one answer."""
    rows = ["question,context,answer,answer_start"]
    for question, context, gold in zip(table["question"], table["context"], table["answers"], strict=True):
        rows.append(f"{question},{context},{(gold['text'] or [''])[0]},{(gold['answer_start'] or [''])[0]}")
    return "\n".join(rows) + "\n"


def records(table):
    """Answers as a list of records."""
    pairs = [
        [dict(zip(("text", "answer_start"), (g["text"][0], g["answer_start"][0]), strict=True))]
        for g in table["answers"]
    ]
    return table | {"answers": pairs}


FORMS = {
    "parquet": lambda path, table: Dataset.from_dict(table).to_parquet(path.with_suffix(".parquet")),
    "jsonl": lambda path, table: path.with_suffix(".jsonl").write_text(lines(table)),
    "jsonl of records": lambda path, table: path.with_suffix(".jsonl").write_text(lines(records(table))),
    "csv": lambda path, table: path.with_suffix(".csv").write_text(as_csv(table)),
    "SQuAD's own": lambda path, table: path.with_name(f"{path.name}-v1.1.json").write_text(nested(table)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_gives_the_same_rows(tmp_path, form):
    for name, count in (("train", 12), ("dev", 4)):
        FORMS[form](tmp_path / name, hub(count))
    task = Questions.from_data(str(tmp_path))
    assert (task.metric, task.unanswerable, task.labels) == ("f1", False, None)
    table = hub(12)
    assert task.splits["train"].to_dict() == {
        "question": table["question"],
        "context": table["context"],
        "answers": [gold["text"] for gold in table["answers"]],
        "starts": [gold["answer_start"] for gold in table["answers"]],
    }
    assert len(task.splits["validation"]) == 4


NOTHING = {"text": [], "answer_start": []}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "SQuAD's own"])
def test_questions_without_an_answer_are_recognised_in_every_form(tmp_path, form):
    golds = [gold if n % 4 else NOTHING for n, gold in enumerate(hub()["answers"])]
    for name in ("train", "dev"):
        FORMS[form](tmp_path / name, hub(answers=golds))
    task = Questions.from_data(str(tmp_path))
    assert task.unanswerable
    assert task.splits["train"]["answers"][:5] == [[], ["Ada"], ["1901"], ["Ada"], []]


def test_a_question_marked_impossible_has_no_answer(tmp_path):
    (tmp_path / "train-v2.0.json").write_text(
        nested(hub(6)).replace('"answers"', '"is_impossible": false, "answers"', 3)
    )
    (tmp_path / "dev-v2.0.json").write_text(nested(hub(4)).replace('"answers"', '"is_impossible": true, "answers"', 1))
    found = Questions.from_data(str(tmp_path)).splits
    assert [bool(one) for one in found["validation"]["answers"]] == [False, True, True, True]
    assert all(found["train"]["answers"])
    table = hub(6, is_impossible=[True] + [False] * 5)
    (tmp_path / "flat.jsonl").write_text(lines(table))
    flat = Questions.from_data(str(tmp_path / "flat.jsonl")).splits
    assert [] in flat["train"]["answers"][:] + flat["validation"]["answers"][:]


@pytest.mark.parametrize(
    ("no", "yes"), [(False, True), (0, 1), ("false", "True"), ("no", "YES"), (None, 1.0), ("", "1")]
)
def test_whether_a_question_is_impossible_may_be_written_in_any_usual_way(tmp_path, no, yes):
    (tmp_path / "flat.jsonl").write_text(lines(hub(6, is_impossible=[yes] + [no] * 5)))
    found = Questions.from_data(str(tmp_path / "flat.jsonl")).splits
    assert sum(not answers for split in found.values() for answers in split["answers"]) == 1
    (tmp_path / "flat.jsonl").write_text(lines(hub(6, is_impossible=["perhaps"] * 6)))
    with pytest.raises(UserError, match=r"'is_impossible' of the train split holds 'perhaps': write true or false"):
        Questions.from_data(str(tmp_path / "flat.jsonl"))


@pytest.mark.parametrize("name", ["squad", "squad_v2", "rajpurkar/squad"])
def test_names_on_the_hub_become_a_path_and_a_config(monkeypatch, name):
    seen = []

    def load(path, config):
        seen.append((path, config))
        return DatasetDict(train=Dataset.from_dict(hub(8)), validation=Dataset.from_dict(hub(4)))

    monkeypatch.setattr(repositories, "load_dataset", load)
    assert len(Questions.from_data(name).splits["validation"]) == 4
    assert seen == [(name, None)]


def test_a_split_is_divided_by_context(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(hub(40)))
    found = [Questions.from_data(str(tmp_path / "a.jsonl"), seed=seed).splits for seed in (0, 0, 1)]
    for one in found:
        assert {name: len(part) for name, part in one.items()} == {"train": 36, "validation": 4}
        assert not set(one["train"]["context"][:]) & set(one["validation"]["context"][:])
    assert found[0]["validation"].to_dict() == found[1]["validation"].to_dict() != found[2]["validation"].to_dict()


def test_columns_can_be_named_and_rows_limited(tmp_path):
    table = hub(40)
    renamed = {"ask": table["question"], "page": table["context"], "gold": table["answers"]}
    (tmp_path / "a.jsonl").write_text(lines(renamed))
    task = Questions.from_data(str(tmp_path / "a.jsonl"), text=("ask", "page"), label="gold", rows=5)
    assert {name: len(part) for name, part in task.splits.items()} == {"train": 5, "validation": 4}


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_places_that_pandas_has_written_as_decimals_are_read(tmp_path, form):
    rows = [
        {"question": f"who {n}?", "context": f"Ada wrote {n}.", "answer": "Ada", "answer_start": 0} for n in range(9)
    ]
    rows[4] |= {"answer": None, "answer_start": None}
    table, file = DataFrame(rows), tmp_path / f"train.{form}"
    assert table["answer_start"].dtype == "float64"
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(row | {"answer_start": 0.0}) for row in rows))
    else:
        table.to_csv(file, index=False) if form == "csv" else table.to_parquet(file)
    splits = Questions.from_data(str(file)).splits
    read = {row["question"]: row["starts"] for split in splits.values() for row in split}
    assert read == {f"who {n}?": [] if n == 4 else [0] for n in range(9)}


def test_two_versions_of_a_split_stay_separate(tmp_path):
    for version in ("v1.1", "v2.0"):
        (tmp_path / f"train-{version}.json").write_text(nested(hub(4)))
    with pytest.raises(UserError, match=r"no labelled split 'train'.*train-v1\.1, train-v2\.0"):
        Questions.from_data(str(tmp_path))


# ---- what it refuses


def golds(number, **change):
    """The hub's answers, the one of a row changed."""
    table = hub()["answers"]
    table[number] = table[number] | change
    return table


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (hub(), {"text": ("question", "page")}, r"no column 'page'.*`text`"),
        (hub(), {"text": "question"}, "`text` names 1 columns: name two"),
        (hub(), {"label": "nope"}, r"no column 'nope'.*`label`"),
        ({"a": ["x"] * 4, "answers": hub(4)["answers"]}, {}, "no text under a usual name"),
        ({"question": ["x"] * 4, "context": ["y"] * 4}, {}, "no label under a usual name"),
        (hub(question=["a"] * 7 + [" "] + ["b"] * 12), {}, r"1 of the 20 rows.*have no question .*row 7"),
        (hub(context=[""] * 20), {}, r"20 of the 20 rows of the train split have no context, or an empty one .*row 0"),
        (hub(context=[1] * 20), {}, "no context"),
        (hub(answers=golds(3, text=[None])), {}, r"1 of the 20 rows.*answers without a text.*row 3"),
        (hub(answers=golds(3, text=[" "])), {}, r"answers without a text and an answer_start for each .*row 3"),
        (hub(answers=golds(3, answer_start=[])), {}, r"an answer_start for each .*row 3"),
        (hub(answers=golds(3, answer_start=[-1])), {}, r"an answer_start for each .*row 3"),
        (hub(answers=golds(4, answer_start=[2])), {}, r"1 of the 20 rows.*is not in its context.*row 4"),
        (hub(answers=golds(4, answer_start=[2.5])), {}, r"1 of the 20 rows.*an answer_start with a fraction.*row 4"),
        (hub(answers=["Ada"] * 20), {}, "an answer_start for each"),
        (hub(answers=[NOTHING] * 20), {}, "no question of the train split has an answer"),
        (hub(context=["Ada"] * 20, answers=[{"text": ["Ada"], "answer_start": [0]}] * 20), {}, "of one context"),
        (hub(), {"metric": "accuracy"}, "'accuracy' is not known for questions: choose one of f1, exact_match"),
        (hub(), {"rows": 0}, "rows is 0"),
        (hub(), {"doc_stride": -1}, "doc_stride is -1: give a whole number of tokens, at least 0"),
        (hub(), {"doc_stride": 1.5}, "doc_stride is 1.5"),
        (hub(), {"max_answer_length": 0}, "max_answer_length is 0.*at least 1"),
        (hub(), {"null_threshold": "x"}, "null_threshold is 'x'"),
    ],
)  # fmt: skip
def test_unsuitable_data_is_refused_in_one_sentence(tmp_path, table, options, message):
    (tmp_path / "data.jsonl").write_text(lines(table))
    with pytest.raises(UserError, match=message) as error:
        Questions.from_data(str(tmp_path / "data.jsonl"), **options)
    assert "\n" not in str(error.value) and ": " in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"data": [{"paragraphs": [{"context": "x"}]}]}), "paragraphs that are not SQuAD's.*'qas'"),
        (json.dumps({"data": [{"paragraphs": "x"}]}), "paragraphs that are not SQuAD's"),
        (json.dumps({"data": [{"paragraphs": []}]}), "paragraphs without a question"),
    ],
)
def test_nested_data_unlike_squads_is_refused(tmp_path, text, message):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Questions.from_data(str(tmp_path / "data.json"))


def test_a_task_refuses_an_option_that_it_does_not_have(tmp_path):
    (tmp_path / "data.jsonl").write_text(lines(hub()))
    data = str(tmp_path / "data.jsonl")
    task = contract.open_task("questions", data, {"doc_stride": 7, "max_answer_length": 3}, metric="exact_match")
    assert (task.doc_stride, task.max_answer_length, task.metric) == (7, 3, "exact_match")
    with pytest.raises(
        UserError, match="'questions' has no option 'stride': it has validation, doc_stride, max_answer_length"
    ):
        contract.open_task("questions", data, {"stride": 7})
    with pytest.raises(UserError, match="'classification' has no option 'seed': it has scores"):
        contract.open_task("classification", data, {"seed": 7})


# ---- what the model gets


def characters(found, number):
    """The characters in the context of each token of a window."""
    return np.frombuffer(found["offsets"][number], np.int32).reshape(-1, 2).tolist()


def test_a_long_context_is_split_into_overlapping_windows():
    task = task_of(row(answers=("dull",)), doc_stride=2)
    first, second = encoded(task, "validation", tokenizer(), 10)
    # [CLS] a film [SEP] five words of the context [SEP]
    assert first["input_ids"] == [2, 4, 9, 3, 4, 5, 9, 11, 4, 3]
    assert second["input_ids"] == [2, 4, 9, 3, 11, 4, 8, 10, 3]
    assert second["token_type_ids"] == [0] * 4 + [1] * 5 and second["attention_mask"] == [1] * 9
    assert np.frombuffer(second["offsets"], np.int32).reshape(-1, 2).tolist() == [
        *[[0, 0]] * 4, [12, 15], [16, 17], [18, 22], [23, 27], [0, 0],
    ]  # fmt: skip
    places = [(one["start_positions"], one["end_positions"]) for one in (first, second)]
    assert places == [(0, 0), (6, 6)], "the window without the answer is labelled [CLS]"
    assert [one["example"] for one in (first, second)] == [0, 0] and first["nothing"] == 0
    assert (first["context"], first["answers"]) == (CONTEXT, ["dull"])


def test_an_answer_that_no_window_holds_completely_is_labelled_cls():
    task = task_of(row(answers=("fine film and a dull",)), doc_stride=2)
    assert {one["start_positions"] for one in encoded(task, "validation", tokenizer(), 10)} == {0}
    (whole,) = encoded(task, "validation", tokenizer(), 20)
    assert (whole["start_positions"], whole["end_positions"]) == (5, 9)


def test_rows_without_an_answer_are_labelled_cls():
    task = task_of(row(answers=()), row())
    assert [one["start_positions"] for one in encoded(task, "validation", tokenizer(), 20)] == [0, 5]


def test_a_long_question_leaves_room_for_the_context():
    task = task_of(row(question=" good" * 50))
    for one in encoded(task, "validation", tokenizer(), 15):
        assert one["input_ids"][:7] == [2, *[7] * 5, 3] and len(one["input_ids"]) <= 15
    seen = {a for one in encoded(task, "validation", tokenizer(), 15) for a, b in unpacked(one) if b}
    assert seen == {0, 2, 7, 12, 16, 18, 23}


def unpacked(one):
    return np.frombuffer(one["offsets"], np.int32).reshape(-1, 2).tolist()


def test_a_tokenizer_that_pads_on_the_left_has_the_question_second():
    left = tokenizer()
    left.padding_side = "left"
    task = task_of(row())
    (one,) = encoded(task, "validation", left, 20)
    assert one["input_ids"] == [2, 4, 5, 9, 11, 4, 8, 10, 3, 4, 9, 3] and one["start_positions"] == 2
    batch = task.collator(left)([one, {**one, "input_ids": [2, 3], "token_type_ids": [0, 0], "attention_mask": [1, 1]}])
    assert batch["input_ids"][1].tolist() == [2, 3] + [0] * 10, "labels count from the first token"


def test_a_batch_has_what_the_model_takes_and_nothing_else():
    task = task_of(row(), row(context="fine"))
    rows = [{**one, "index": n} for n, one in enumerate(encoded(task, "validation", tokenizer(), 20))]
    batch = task.collator(tokenizer())(rows)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "start_positions", "end_positions", "index"}
    assert batch["start_positions"].tolist() == [5, 4]
    del batch["index"]
    for one in rows:
        del one["index"]
    (inputs,) = batches(task, rows, tokenizer())
    assert set(inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert BertForQuestionAnswering(bert())(**batch).loss.isfinite()


WORDS = st.lists(st.sampled_from(["go", "gog", "og", "g\u00fcn", "\U0001f3ac", "  go", "\n"]), min_size=1, max_size=30)


@QUICK
@given(WORDS, st.data(), st.integers(16, 32), st.sampled_from(["words", "bytes"]))
def test_the_labels_are_the_answer_and_the_windows_the_context(words, data, max_length, kind):
    tokens = bytes_of_words() if kind == "bytes" else tokenizer()
    context = " ".join([*words, "go"])
    first = data.draw(st.integers(0, len(words)))
    last = data.draw(st.integers(first, len(words)))
    start = sum(len(word) + 1 for word in words[:first])
    text = " ".join([*words, "go"][first : last + 1])
    if not text.strip():
        return
    one = {"question": "gog?", "context": context, "answers": [text], "starts": [start]}
    rows = encoded(task_of(one), "validation", tokens, max_length)
    seen, held = set(), []
    for found in rows:
        assert ("token_type_ids" in found) == (kind == "words")
        places = unpacked(found)
        for a, b in places:
            seen |= set(range(a, b))
            assert not context[a:b].startswith((" ", "\n"))
        if found["start_positions"]:
            held.append(context[places[found["start_positions"]][0] : places[found["end_positions"]][1]])
        else:
            assert found["end_positions"] == 0
    assert all(said == text.strip() for said in held)
    assert seen == {place for place, character in enumerate(context) if not character.isspace()}
    most = max(len(tokens(word, add_special_tokens=False)["input_ids"]) for word in [text])
    assert held or most > max_length // 3, "an answer no longer than what windows share is whole in one"


def test_a_tokenizer_without_offsets_or_cls_is_refused(monkeypatch):
    task = task_of(row(), doc_stride=10)
    with pytest.raises(UserError, match="max_length is 33: give at most 32"):
        task.encode(task.splits["train"], tokenizer(), max_length=33)
    with pytest.raises(UserError, match=r"at max_length 18 a window has room for 9 tokens.*10 of them \(doc_stride\)"):
        task.encode(task.splits["train"], tokenizer(), max_length=18)
    bare = tokenizer()
    bare.cls_token = None
    with pytest.raises(UserError, match=r"no \[CLS\]"):
        task.encode(task.splits["train"], bare, max_length=32)
    slow = tokenizer()
    monkeypatch.setattr(type(slow), "is_fast", False)
    with pytest.raises(UserError, match="fast tokenizer"):
        task.encode(task.splits["train"], slow, max_length=32)


def test_a_checkpoint_gets_a_head_of_two_outputs(tmp_path):
    task = task_of(row())
    base = write_model(tmp_path / "base", ["a", "b", "c"])
    assert not task.is_finetuned(base)
    model = task.load_model(base)
    assert model.config.num_labels == 2 and model.qa_outputs.out_features == 2
    model.save_pretrained(tmp_path / "reader")
    assert task.is_finetuned(tmp_path / "reader")
    task.check_labels(model, "teacher")


# ---- the scores


def says(rows, *spans, width=20, nothing=0.0):
    """A prediction: of each row a dict of (first, last token) -> score of the pair; of [CLS] `nothing`; else -9."""
    start, end = np.full((2, len(rows), width), -9.0)
    start[:, 0] = end[:, 0] = nothing / 2
    for number, found in enumerate(spans):
        for (first, last), score in found.items():
            start[number, first] = end[number, last] = score / 2
    for number, found in enumerate(rows):
        start[number, len(found["input_ids"]) :] = end[number, len(found["input_ids"]) :] = -100.0
    return EvalPrediction((start, end), None)


def test_scores_equal_values_computed_by_hand():
    # context tokens begin at 4: a fine film and a dull book
    task = task_of(row(), row(answers=("dull book", "book")), row(answers=("a dull book",)))
    rows = encoded(task, "validation", tokenizer(), 20)
    said = says(rows, {(5, 5): 4}, {(9, 9): 4}, {(5, 6): 4})
    # "fine" is right; "dull" of "dull book" is 2/3; "fine film" is neither of "dull", "book"
    assert task.score(said, rows) == pytest.approx({"f1": (1 + 2 / 3 + 0) / 3, "exact_match": 1 / 3})


def test_the_windows_of_a_question_give_one_prediction_in_any_order():
    task = task_of(row(answers=("dull",)), row(answers=("fine",)), doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 10)
    assert [one["example"] for one in rows] == [0, 0, 1, 1]
    start, end = np.full((2, 4, 10), -9.0)
    for number, place, score in ((0, 5, 3.0), (1, 6, 4.0), (2, 5, 2.0), (3, 4, 1.0)):
        start[number, place] = end[number, place] = score
    expected = {"f1": 1.0, "exact_match": 1.0}
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        prediction = EvalPrediction((start[order], end[order], "hidden states"), None)
        assert task.score(prediction, [rows[n] for n in order]) == expected
    start[0, 5] = 6.0
    assert task.score(EvalPrediction((start, end), None), rows) == {"f1": 0.5, "exact_match": 0.5}


def test_no_answer_is_predicted_if_its_score_is_higher_by_more_than_the_threshold():
    both = (row(), row(answers=()))
    rows = encoded(task_of(*both), "validation", tokenizer(), 20)
    spans = ({(5, 5): 4.0}, {(5, 5): 4.0})
    for nothing, threshold, found in ((3.9, 0, (1, 0)), (4.1, 0, (0, 1)), (4.1, 0.2, (1, 0)), (3.9, -0.2, (0, 1))):
        task = task_of(*both, null_threshold=threshold)
        assert task.score(says(rows, *spans, nothing=nothing), rows) == {
            "f1": 0.5,
            "exact_match": 0.5,
            "has_answer_f1": found[0],
            "has_answer_exact_match": found[0],
            "no_answer_exact_match": found[1],
        }
    always = task_of(row(), row())
    assert always.score(says(rows, *spans, nothing=99), rows[:1] * 1)["f1"] == 1.0, "1.1 has always an answer"


def test_no_answer_is_predicted_only_if_no_window_has_an_answer():
    task = task_of(row(answers=("dull",)), row(answers=()), doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 10)[:2]
    said = says(rows, {}, {(6, 6): 4.0}, width=10, nothing=3.0)
    said.predictions[0][0, 0] = 50.0  # the window without the answer says so
    assert task.score(said, rows)["exact_match"] == 1.0
    said.predictions[0][1, 0] = 50.0
    assert task.score(said, rows)["exact_match"] == 0.0


def test_gold_answers_that_normalise_to_nothing_are_dropped_as_in_squad_2():
    asked = row(answers=("a", "a fine"))  # of which "" and "fine" are left
    for task, found in ((task_of(asked, row(answers=())), 0.5), (task_of(asked, asked), 1.0)):
        rows = encoded(task, "validation", tokenizer(), 20)
        said = says(rows, {(4, 4): 4}, {(4, 4): -9} if task.unanswerable else {(4, 4): 4})
        assert task.score(said, rows)["exact_match"] == found


def test_answers_are_no_longer_than_the_limit():
    rows = encoded(task_of(row()), "validation", tokenizer(), 20)
    said = says(rows, {(4, 9): 8, (5, 5): 4})
    assert task_of(row(), max_answer_length=6).score(said, rows)["exact_match"] == 0.0
    assert task_of(row(), max_answer_length=1).score(said, rows)["exact_match"] == 1.0


def test_a_question_counts_even_if_no_window_holds_its_answer():
    task = task_of(row(answers=("fine film and a dull",)), row(), doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 10)
    best = says(rows, *({(one["start_positions"], one["end_positions"]): 4} for one in rows), width=10, nothing=-9)
    assert task.score(best, rows)["exact_match"] == 0.5


def test_scores_of_windows_compare_tokens():
    task = task_of(row())
    start, end = np.full((2, 2, 6), -9.0)
    start[:, 2], end[:, 4] = 5.0, 5.0
    start[1, 5:], end[1, 5:] = -100.0, -100.0
    labels = np.array([2, 3]), np.array([4, 3])
    found = task.compute_metrics(EvalPrediction((start, end), labels))
    assert found == pytest.approx({"f1": (1 + 2 / 4) / 2, "exact_match": 0.5})


def test_scores_of_a_model_are_those_of_its_best_spans():
    torch.manual_seed(0)
    texts = [row(context=" ".join(["a good film and"] * n + ["a dull book"]), answers=("dull",)) for n in range(5)]
    task = task_of(*texts, doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 12)
    model = BertForQuestionAnswering(bert()).train()
    right = [
        answer(model, tokenizer(), "a film", one["context"], max_length=12, doc_stride=2)[0].text == "dull"
        for one in texts
    ]
    assert model.training and model.bert.training  # the caller's mode
    assert len(rows) > 5 and scores(model, task, rows, tokenizer())["exact_match"] == np.mean(right)
    assert model.training and model.bert.training


# ---- an answer


class Finder(torch.nn.Module):
    """Answers with the words of an id, and scores [CLS] as given."""

    def __init__(self, wanted, nothing):
        super().__init__()
        self.wanted, self.nothing, self.device = wanted, nothing, torch.device("cpu")
        self.config = BertConfig(max_position_embeddings=64)

    def forward(self, input_ids, **others):
        logits = (input_ids == self.wanted).float() * 3 + (input_ids == 2) * self.nothing
        return type("Said", (), {"start_logits": logits, "end_logits": logits})


def test_an_answer_is_a_span_of_the_context():
    context = " ".join(["a bad film and"] * 9 + ["a dull book"])
    found = answer(Finder(8, 0.0), tokenizer(), "book", context, max_length=16, most=3)
    assert (found[0].text, context[found[0].start : found[0].end], found[0].score) == ("dull", "dull", 6.0)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert sum(one.probability for one in found) == pytest.approx(1.0)
    (none,) = answer(Finder(8, 9.0), tokenizer(), "book", context, max_length=16, nothing=True)
    assert (none.text, none.start, none.end) == ("", 0, 0)
    for question, text in (("", context), ("book", " ")):
        with pytest.raises(UserError, match="the question or the context is empty"):
            answer(Finder(8, 0.0), tokenizer(), question, text, max_length=16)
    for most in (0, 21):
        with pytest.raises(UserError, match=f"most is {most}: ask for 1 to 20"):
            answer(Finder(8, 0.0), tokenizer(), "book", context, max_length=16, most=most)


def test_transformers_no_longer_has_a_pipeline_for_questions():
    with pytest.raises(KeyError, match="question-answering has been removed"):
        pipeline("question-answering")


# ---- training and distillation


def ends(start, end):
    return type("Said", (), {"start_logits": start, "end_logits": end, "hidden_states": None})


@pytest.mark.parametrize("divergence", [False, True])
def test_start_and_end_are_distilled_among_the_real_tokens(divergence):
    noise = torch.Generator().manual_seed(0)
    start, end, start_, end_ = torch.randn(4, 2, 5, generator=noise)
    start.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    term = Logits(2.0, divergence=divergence)
    value = term(Step({"attention_mask": mask}, ends(start, end), ends(start_, end_)))
    parts = [
        term(Step({}, *(type("Said", (), {"logits": side[n : n + 1, :size]}) for side in pair)))
        for pair in ((start, start_), (end, end_))
        for n, size in ((0, 5), (1, 2))
    ]
    torch.testing.assert_close(value, torch.stack(parts).mean())
    value.backward()
    assert not start.grad[1, 2:].any() and start.grad[1, :2].any()
    start_[1, 2:] = 0.0  # as a cached teacher leaves them
    torch.testing.assert_close(term(Step({"attention_mask": mask}, ends(start, end), ends(start_, end_))), value)


def test_distillation_equals_a_value_computed_by_hand():
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    step = Step({"attention_mask": torch.ones(1, 2)}, ends(one, one), ends(two, two))
    assert Logits(8.0)(step).item() == pytest.approx(0.687327, abs=1e-6)  # as of two classes: test_objectives.py
    equal = Step({"attention_mask": torch.ones(1, 2)}, ends(one, two), ends(one, two))
    assert Logits(1.0, divergence=True)(equal).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_cached_teacher_returns_the_outputs_of_the_model(kind, tmp_path):
    teacher = tiny(kind, "ForQuestionAnswering", dtype=torch.float32)
    task = task_of(row(), row(context="fine"), doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 10)
    names = ("input_ids", "attention_mask", "start_positions", "end_positions")
    rows = [{name: one[name] for name in names} for one in rows]
    cached = CachedTeacher.of(teacher, rows, task.collator(tokenizer()), tmp_path, layers=(1,), batch=2)
    batch = task.collator(tokenizer())([{**rows[n], "index": n} for n in (2, 0)])
    found = cached(batch["index"], batch["attention_mask"], output_hidden_states=True)
    with torch.no_grad():
        live = teacher(batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"].bool()
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(found[name] if isinstance(found, dict) else getattr(found, name), live[name] * real)
    assert not real.all() and not hasattr(found, "logits") and set(found.hidden_states) == {1}


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_family_is_trained_under_every_term(kind, tmp_path):
    model, teacher = (tiny(kind, "ForQuestionAnswering", dtype=torch.float32, seed=seed) for seed in (0, 1))
    task = task_of(*[row(), row(context="fine")] * 4)
    names = ("input_ids", "attention_mask", "start_positions", "end_positions")
    rows = [{name: one[name] for name in names} for one in encoded(task, "train", tokenizer(), 20)]
    space = Space(model, "ffn", "qk", "vo")
    method = METHODS.get("grain")(space, 0.5)
    before = method.scores().clone()
    arguments = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "remove_unused_columns": False}
    trainer = PruningTrainer(
        model,
        method=method,
        teacher=teacher,
        objective=[Logits(), Hidden(), Labels()],
        args=TrainingArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=4, **arguments),
        train_dataset=rows,
        data_collator=task.collator(tokenizer()),
    )
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(method.scores(), before), "the method has heard what is distilled"


# ---- the whole job


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe whose model has no head yet, on questions of which some have no answer and some two windows."""
    folder = tmp_path_factory.mktemp("world")
    for name, rows in (("train", 48), ("validation", 12)):
        write_questions(folder / f"{name}.jsonl", rows, unanswerable=True)
    learning = {
        "training.teacher_epochs": 4,
        "training.teacher_learning_rate": 2e-2,
        "training.epochs": 4,
        "training.learning_rate": 5e-3,
        "training.checkpoints": 0,
    }
    return recipe_values(write_model(folder / "model"), str(folder)) | learning | {"data.task": "questions"}


@pytest.fixture(scope="module")
def finished(values, tmp_path_factory):
    """(folder, report) of a run with GRAIN."""
    folder = tmp_path_factory.mktemp("run") / "grain"
    return folder, stages.run(recipe.make({**values, "training.evaluations": 2}), folder)


def proved(report):
    return max(report.verified["masked_compact"], report.verified["compact_loaded"]) < 1e-5


NAMES = ["f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_exact_match"]


def test_a_run_with_grain(finished):
    folder, report = finished
    assert report.metric == "f1" and min(report.teacher_scores["f1"], report.scores["f1"]) > 0.5
    assert list(report.scores) == NAMES and report.rows == {"train": 48, "validation": 12}
    assert 0 < report.density["prunable"] <= 0.3 and proved(report)
    assert report.verified["examples"] > 12, "windows, of which some questions have two"
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = [line for line in logged if line["stage"] == "recover" and "eval_f1" in line][-1]
    assert [last[f"eval_{name}"] for name in NAMES] == pytest.approx([report.scores[name] for name in NAMES])


OPTIONS = {
    "cofi": {"method.options": {"learning_rate": 0.5}, "method.ramp": 0.5},
    "movement": {"method.options": {"tile": 8}},
}
OPTIONS |= {name: {"target.density": 0.6} for name in ("subset", "michel", "voita")}  # of heads alone


@pytest.mark.parametrize("method", METHODS.all())
def test_a_run_with_every_method(finished, values, tmp_path, method):
    teacher = str(shutil.copytree(finished[0] / "teacher", tmp_path / "teacher"))
    given = {"model": teacher, "method": method, "training.epochs": 1, "training.evaluations": 0, "target.density": 0.4}
    report = stages.run(recipe.make({**values, **given, **OPTIONS.get(method, {})}), tmp_path / "run")
    assert proved(report) and "teacher" not in report.seconds


def test_held_out_rows_are_whole_questions(values, tmp_path):
    data = RunData(recipe.make({**values, "training.select": 10}))
    held_out, train = data.train_parts
    assert len(contract.examples(held_out)) == 10 and len(contract.examples(train)) == 38
    assert len(held_out) > 10 and [one["nothing"] for one in data.eval_rows] == [0] * len(held_out)


def test_a_run_without_token_types(values, tmp_path):
    tokens = bytes_of_words()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = RobertaForQuestionAnswering(RobertaConfig(vocab_size=len(tokens), max_position_embeddings=40, **sizes))
    for part in (model, tokens):
        part.save_pretrained(tmp_path / "reader")
    wanted = {**values, "model": str(tmp_path / "reader"), "method": "magnitude", "training.epochs": 1, "data.rows": 12}
    report = stages.run(recipe.make(wanted), tmp_path / "run")
    assert proved(report) and report.rows["train"] == 12


def test_a_task_has_defaults_of_a_recipe():
    made = recipe.make({"model": "m", "data": "d", "data.task": "questions"})
    assert (made.data.max_length, made.measurement.shapes) == (384, ((1, 128), (8, 384)))
    assert (
        recipe.make({"model": "m", "data": "d", "data.task": "questions", "data.max_length": 99}).data.max_length == 99
    )
    with pytest.raises(UserError, match="task 'question' is not known: did you mean 'questions'"):
        recipe.make({"model": "m", "data": "d", "data.task": "question"})


def test_a_length_beyond_the_models_positions_is_refused_before_training(values, tmp_path):
    long = {name: value for name, value in values.items() if name != "measurement.shapes"}  # as the task has them
    with pytest.raises(UserError, match=r"measurement.shapes has one of 384 tokens, and \w+ has 32 positions"):
        stages.run(recipe.make(long), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_compact_folder_loads_and_answers(finished):
    folder = finished[0] / "model"
    tokens = AutoTokenizer.from_pretrained(folder)
    models = [checkpoint.load(folder), AutoModelForQuestionAnswering.from_pretrained(folder).eval()]
    inputs = tokens("a film", "a fine film and a bad book", return_tensors="pt")
    with torch.no_grad():
        said = [model(**inputs) for model in models]
    assert torch.equal(said[0].start_logits, said[1].start_logits) and said[0].end_logits.any()
    found = [answer(model, tokens, "a film", "a fine film and a bad book", max_length=24) for model in models]
    assert found[0] == found[1] and found[0][0].text in "a fine film and a bad book"
    named = json.loads((folder / "config.json").read_text())["auto_map"]
    assert named["AutoModelForQuestionAnswering"] == f"modeling_secateur.{type(models[1]).__name__}"
    assert "pipeline_tag: question-answering" in (folder / "README.md").read_text()


def test_an_export_has_both_outputs_and_the_same_scores(finished, values, tmp_path, secateur):
    pytest.importorskip("onnxruntime")
    model = checkpoint.load(finished[0] / "model")
    found = export(model, tmp_path / "model.onnx")
    assert found.facts.outputs == ("start_logits", "end_logits") and found.difference < 1e-4
    task = TASKS.get("questions").from_data(values["data"])
    rows = encoded(task, "validation", tokenizer(), 24)
    assert runner_scores(opened(tmp_path / "model.onnx"), task, rows, tokenizer(), size=3) == finished[1].scores
    words = ("--exported", tmp_path / "model.onnx", "--data", values["data"], "--task", "questions", "--max-length", 24)
    checked = json.loads(secateur("verify", finished[0], *words, "--json"))
    assert checked["passed"] and checked["scores"]["exported"] == finished[1].scores


def test_the_command_knows_the_task(finished, values, tmp_path, secateur):
    folder, report = finished
    words = ("--data", values["data"], "--task", "questions", "--max-length", 24)
    shown = json.loads(secateur("eval", folder, *words, "--json"))
    assert shown == {"metric": "f1", "scores": report.scores, "rows": 12, "split": "validation"}
    strict = secateur("eval", folder, *words, "--task-option", "null_threshold=-1000", "--json")
    assert json.loads(strict)["scores"]["no_answer_exact_match"] == 1.0
    assert json.loads(secateur("verify", folder, *words, "--json"))["passed"]
    assert "span of a context that answers" in secateur("list")
    study = json.loads(secateur("sensitivity", folder / "teacher", *words, "--rows", 8, "--units", "head", "--json"))
    assert study["metric"] == "f1" and study["rows"] == 8
    secateur("compare", folder, "--against", folder / "teacher")
    line = ("--method", "magnitude", "--density", 0.4, "--task-option", "doc_stride=3", "--output", tmp_path / "run")
    quick = ("--epochs", 1, "--set", "shapes=[[1, 8]]", "--set", "repeats=2", "--set", "checkpoints=0")
    secateur("prune", folder / "teacher", *words, *line, *quick)
    assert Report.load(tmp_path / "run").recipe["data"]["options"] == {"doc_stride": 3}


def test_a_question_is_left_out_of_the_standard_error_with_all_its_windows(monkeypatch):
    task = task_of(row(), row(answers=("dull",)), doc_stride=2)
    rows = encoded(task, "validation", tokenizer(), 10)
    said = says(rows, {(5, 5): 4}, width=10).predictions  # the first is right, the second is not
    found = []
    monkeypatch.setattr(
        Questions, "score", lambda self, *args, real=Questions.score: found.append(real(self, *args)) or found[-1]
    )
    error = standard_error(task, EvalPrediction(said, (np.zeros(4), np.zeros(4))), rows)
    assert sorted(one["exact_match"] for one in found) == [0.0, 1.0], "one of them each"
    assert error == pytest.approx(0.5)


def test_sensitivity_is_measured_on_whole_questions(values):
    task = TASKS.get("questions").from_data(values["data"])
    torch.manual_seed(0)
    model = BertForQuestionAnswering(bert()).eval()
    found = sensitivity(model, task, tokenizer(), units=("head",), densities=(1.0, 0.0), rows=10, max_length=24)
    assert found.rows == found.evidence == 10
    assert all(reaction.scores[0] == found.dense for reaction in found.reactions)


def test_the_registry_knows_it():
    assert TASKS.get("questions") is Questions and Questions.name == "questions"
    assert Questions.collator_class is WindowCollator


def test_the_page_lists_the_options_and_the_defaults():
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8").partition("## `questions`")[2]
    page = page.partition("\n## ")[0]
    options = signature(Questions.from_data).parameters
    documented = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    shown = {"None": "null", "0.0": "0"}
    own = {name: str(one.default) for name, one in options.items() if name not in contract.SHARED}
    assert documented == {name: shown.get(value, value) for name, value in own.items()}
    for key, value in Questions.defaults.items():
        assert f"`{key}: {json.dumps(value)}`" in page


def test_the_code_of_the_docs_without_secateur_finds_the_best_span(finished, capsys):
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (lines_,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "sequence_ids" in block)
    folder = str(finished[0] / "model")
    exec(lines_.replace("runs/squad/model", folder), {})
    tokens = AutoTokenizer.from_pretrained(folder)
    (best,) = answer(checkpoint.load(folder), tokens, "a film", CONTEXT, max_length=24)
    assert capsys.readouterr().out == f"{best.text}\n"


def test_a_teacher_without_label_names_is_accepted(tmp_path):
    (tmp_path / "data.jsonl").write_text(lines({"text": ["a film", "a book"] * 9, "label": [0.5, 2.5] * 9}))
    regression = contract.open_task("classification", str(tmp_path / "data.jsonl"), {})
    for task in (regression, task_of(row())):
        task.check_labels(task.load_model(write_model(tmp_path / "base")), "teacher")
