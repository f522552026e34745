"""Labels: which the data has, in which order, and which output of a head each of them is."""

import json
import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from small_world import config
from transformers import BertForSequenceClassification, EvalPrediction

from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.labels import SCORES_HINT, outputs_of

HAPPY = ("happy", "unhappy")
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
NUMBERED = ("LABEL_0", "LABEL_1", "LABEL_2")


def task_of(folder, values, **options):
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(values * 4)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Classification.from_data(str(folder), **options)


def head(*names):
    model = BertForSequenceClassification(config(id2label=dict(enumerate(names)), label2id={}))
    model.config.architectures = ["BertForSequenceClassification"]
    return model


def by_text(task):
    """The text of each row -> its label, for the first rows."""
    split = task.splits["train"]
    return dict(zip(split["text"][:], split["label"][:], strict=True))


@pytest.mark.parametrize(
    ("labels", "order", "names", "outputs"),
    [
        (("a", "b", "c"), "sorted", ("C", "a", "B"), (1, 2, 0)),  # by name, whatever the case and the order
        (("a", "c"), "sorted", ("c", "b", "a"), (2, 0)),  # a class that is absent from the data
        (("no", "yes"), "data", ("LABEL_0", "LABEL_1"), (0, 1)),  # names of a ClassLabel for a head without names
        (("no", "yes"), "asked", ("NEGATIVE", "POSITIVE"), (0, 1)),  # the user states it
        (("LABEL_0", "LABEL_1"), "data", ("no", "yes"), (0, 1)),  # integers are the outputs
        (("0", "1", "2", "10"), "data", ("0", "1", "10", "2"), (0, 1, 3, 2)),  # a head that was sorted as text
        (("0", "2"), "data", NUMBERED, (0, 2)),
        (("1", "2", "3", "4", "5"), "data", STARS, (0, 1, 2, 3, 4)),
        (("1", "5"), "data", STARS, (0, 4)),
        (("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"), "data", STARS, (0, 1, 2, 3, 4)),
    ],
)
def test_labels_are_found_among_the_outputs(labels, order, names, outputs):
    assert outputs_of(labels, order, names, "the model") == outputs


@pytest.mark.parametrize(
    ("labels", "order", "names"),
    [
        (HAPPY, "sorted", ("LABEL_0", "LABEL_1")),  # nothing says which of the two is first
        (("1", "2", "3"), "data", NUMBERED),  # shifted by one, or not the same classes
        (("LABEL_0", "LABEL_1"), "data", NUMBERED),
        (("LABEL_0", "LABEL_1"), "data", ("entailment", "neutral", "contradiction")),
        (("001", "002"), "sorted", ("LABEL_0", "LABEL_1")),  # codes
        (HAPPY, "data", ("sad", "glad")),
        (HAPPY, "asked", ("unhappy", "happy")),  # contradicts the names of the model
        (HAPPY, "asked", NUMBERED),
    ],
)
def test_a_guess_is_refused_with_the_option_that_states_the_order(labels, order, names):
    with pytest.raises(UserError, match=r"the model has .*, and the data has .*: name the data's labels .*--labels"):
        outputs_of(labels, order, names, "the model")


def test_classes_for_one_output_are_refused_with_what_a_task_can_do():
    with pytest.raises(
        UserError, match=r"the model has one output .*happy, unhappy.*: give a model with an output for"
    ):
        outputs_of(HAPPY, "data", ("LABEL_0",), "the model")
    with pytest.raises(UserError, match=r"the model has one output .*happy, unhappy.*--task-option scores=true"):
        outputs_of(HAPPY, "data", ("LABEL_0",), "the model", SCORES_HINT)


def test_the_labels_of_the_data_are_put_in_the_order_of_a_head_and_it_is_said(tmp_path, caplog):
    task = task_of(tmp_path, ["entailment", "neutral", "contradiction"])
    with caplog.at_level(logging.INFO, "secateur"):
        fitted = task.fitted(head("Contradiction", "Neutral", "Entailment"), "teacher")
    assert "entailment is Entailment" in caplog.text and "outputs of the teacher" in caplog.text
    assert fitted.labels == ("Contradiction", "Neutral", "Entailment")
    assert [by_text(fitted)[f"row {i}"] for i in range(3)] == [2, 1, 0]
    fitted.check_labels(head("Contradiction", "Neutral", "Entailment"), "teacher")
    assert fitted.head()["id2label"] == {0: "Contradiction", 1: "Neutral", 2: "Entailment"}


@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_f1_of_two_classes_is_that_of_one_class_whatever_the_order_of_a_head(tmp_path, order):
    task = task_of(tmp_path, ["bad", "good"], metric="f1")
    fitted = task.fitted(head(*order), "model")
    assert fitted.labels == order
    assert fitted.labels[fitted.positive] == "good"
    assert fitted.described()["labels"].endswith("; f1 is that of good")
    gold = np.array([order.index(name) for name in ("good", "good", "bad", "bad", "bad")])
    said = np.array([order.index(name) for name in ("good", "bad", "good", "bad", "bad")])
    assert fitted.compute_metrics(EvalPrediction(np.eye(2)[said], gold))["f1"] == pytest.approx(1 / 2)


def test_a_class_that_the_data_lacks_stays_an_output(tmp_path):
    fitted = task_of(tmp_path, ["c", "a"]).fitted(head("a", "b", "c"), "model")
    assert fitted.labels == ("a", "b", "c") and set(by_text(fitted).values()) == {0, 2}


def test_a_head_with_one_name_for_two_outputs_takes_labels_whose_order_is_stated(tmp_path):
    cranes, numbered = head("crane", "owl", "crane"), ("crane (0)", "owl", "crane (2)")
    fitted = task_of(tmp_path, ["bird", "owl", "machine"], labels=("bird", "owl", "machine")).fitted(cranes, "model")
    assert fitted.labels == numbered and [by_text(fitted)[f"row {i}"] for i in range(3)] == [0, 1, 2]
    fitted.check_labels(cranes, "model")
    assert set(by_text(task_of(tmp_path, ["owl", "crane (2)"]).fitted(cranes, "model")).values()) == {1, 2}


def test_numbers_as_text_are_in_numeric_order(tmp_path):
    labels = [str(number) for number in range(11)]
    task = task_of(tmp_path, labels)
    assert task.labels == tuple(labels)
    assert task.fitted(head(*(f"LABEL_{number}" for number in range(11))), "model").labels == tuple(labels)
    assert by_text(task) == {f"row {i}": i % 11 for i in range(44)}


def test_the_user_states_the_order_or_the_names(tmp_path):
    task = task_of(tmp_path, ["unhappy", "happy"], labels=("unhappy", "happy"))
    fitted = task.fitted(head("LABEL_0", "LABEL_1"), "model")
    assert fitted.labels == ("unhappy", "happy") and by_text(fitted)["row 0"] == 0
    assert task.fitted(head("NEGATIVE", "POSITIVE"), "model").labels == ("NEGATIVE", "POSITIVE")
    assert task_of(tmp_path, [0, 1], labels=("no", "yes")).labels == ("no", "yes")
    assert by_text(task_of(tmp_path, [3, 5, 4], labels=("5", "4", "3")))["row 0"] == 2
    assert task_of(tmp_path, [1.0, 0.0], labels=("0", "1")).labels == ("0", "1")
    assert task_of(tmp_path, [1, 0], scores=True).labels is None


def test_without_a_stated_order_a_head_without_names_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the teacher has 2 labels, and the data has 2 labels \(happy, unhappy\)"):
        task_of(tmp_path, ["unhappy", "happy"]).fitted(head("LABEL_0", "LABEL_1"), "teacher")


def test_the_names_of_the_data_are_an_order(tmp_path):
    features = Features(text=Value("string"), label=ClassLabel(names=["worse", "better"]))
    table = {"text": [f"row {i}" for i in range(20)], "label": [0, 1] * 10}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "data.parquet")
    task = Classification.from_data(str(tmp_path / "data.parquet"))
    assert task.fitted(head("LABEL_0", "LABEL_1"), "model") is task
    assert by_text(task.fitted(head("better", "worse"), "model"))["row 0"] == 1
