"""Tags that are integers without names: those of the model, or a refusal."""

import json
import logging

import pytest
from small_world import config
from transformers import BertForTokenClassification, BertModel

from secateur.system.errors import UserError
from secateur.tasks.tokens import Tokens

BIO = ("O", "B-PER", "I-PER")


def write(path, tags, column="ner_tags"):
    rows = [{"tokens": ["a", "good", "film"], column: row} for row in tags * 10]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def tagger(*names):
    model = BertForTokenClassification(config(id2label=dict(enumerate(names)), label2id={}))
    model.config.architectures = ["BertForTokenClassification"]
    return model


@pytest.mark.parametrize("column", ["ner_tags", "tags"])
def test_integers_take_the_names_of_the_model_and_it_is_said(tmp_path, column, caplog):
    read = Tokens.from_data(write(tmp_path / "d.jsonl", [[0, 1, 2], [1, 0, 0]], column))
    with caplog.at_level(logging.INFO, "secateur"):
        task = read.fitted(tagger(*BIO), "teacher")
    assert (task.labels, task.metric) == (BIO, "f1") and task.head()["id2label"] == dict(enumerate(BIO))
    assert "outputs of the teacher: LABEL_0 is O, LABEL_1 is B-PER, LABEL_2 is I-PER" in caplog.text


def test_a_metric_of_entities_waits_for_the_names_of_the_model(tmp_path):
    tags = [[0, 1, 2], [1, 0, 0]]
    task = Tokens.from_data(write(tmp_path / "d.jsonl", tags), metric="recall")
    assert task.fitted(tagger(*BIO), "model").metric == "recall"
    task = Tokens.from_data(write(tmp_path / "d.jsonl", tags, "pos"), metric="f1")
    with pytest.raises(UserError, match="'f1' is not known for tags that do not mark entities"):
        task.fitted(tagger("N", "V", "D"), "model")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((*BIO, "B-LOC"), r"the model has 4 labels \(O, .*\), and the data has 3 labels: name .* by --labels"),
        (BIO[:2], r"the model has 2 labels \(O, B-PER\), and the data has 3 labels: name .* by --labels"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "the tags in 'ner_tags' are integers without names.*--labels"),
    ],
)
def test_integers_whose_names_would_be_a_guess_are_refused(tmp_path, names, message):
    task = Tokens.from_data(write(tmp_path / "d.jsonl", [[0, 1, 2]]))
    with pytest.raises(UserError, match=message) as error:
        task.fitted(tagger(*names), "model")
    assert len(str(error.value).splitlines()) == 1


def test_integers_of_entities_without_any_names_make_no_head(tmp_path):
    task = Tokens.from_data(write(tmp_path / "d.jsonl", [[0, 1, 2]]))
    bare = BertModel(config())
    bare.config.architectures = ["BertModel"]
    for use in (task.head, lambda: task.fitted(bare, "model")):
        with pytest.raises(UserError, match=r"integers without names.*--labels"):
            use()
