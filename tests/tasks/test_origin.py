"""The names of the splits in the data, and what a task guessed of its columns, with the option that says otherwise."""

import json

import pytest
from datasets import DatasetDict
from small_world import write_model

from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.language import Language
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.origin import Origin, origin_of
from secateur.tasks.questions import Questions
from secateur.tasks.splits import read_splits
from secateur.tasks.tokens import Tokens
from secateur.tasks.translation import Translation

LABELLED = {"text": "a fine film", "label": "good"}, {"text": "a dull book", "label": "bad"}


def write(folder, name, *rows, times=10):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * times))
    return str(path)


# ---- names of splits


@pytest.mark.parametrize("name", ["validation", "validation_matched", "dev", "test"])
def test_the_scored_split_keeps_its_name(tmp_path, name):
    write(tmp_path, "training", *LABELLED)
    write(tmp_path, name, *LABELLED)
    task = Classification.from_data(str(tmp_path), rows=4)
    assert task.origin == Origin("training", name) and task.origin.rows == f"{name} rows"
    assert set(task.splits) == {"train", "validation"}


def test_rows_that_are_split_off_have_no_split_of_their_own(tmp_path):
    write(tmp_path, "train", *LABELLED)
    write(tmp_path, "test", {"text": "a film"})
    origin = Classification.from_data(str(tmp_path)).origin
    assert origin.names == {"train": "train", "validation": None} and origin.rows == "rows split off from training"


def test_a_split_that_the_user_names(tmp_path):
    for name in ("train", "dev", "part2"):
        write(tmp_path, name, {"source": "a", "target": "b"})
    assert read_splits(tmp_path, validation="part2").origin.scored == "part2"
    assert Translation.from_data(str(tmp_path), validation="part2").origin.scored == "part2"


def test_labels_in_the_order_of_a_model_keep_the_origin(tmp_path):
    write(tmp_path, "train", *LABELLED)
    write(tmp_path, "test", *LABELLED)
    task = Classification.from_data(str(tmp_path))
    assert task.labels == ("bad", "good")
    fitted = task.fitted(write_model(tmp_path / "model", ["good", "bad"]), "model")
    assert fitted.labels == ("good", "bad") and fitted.origin.scored == "test"


def test_what_is_wrong_with_a_split_is_said_by_its_name(tmp_path):
    write(tmp_path, "train", *LABELLED)
    write(tmp_path, "test", *LABELLED, {"text": "", "label": "bad"})
    with pytest.raises(UserError, match="10 of the 30 rows of the test split lack a text"):
        Classification.from_data(str(tmp_path))
    write(tmp_path, "test", {"text": "a film", "label": "fair"})
    with pytest.raises(UserError, match=r"the test rows have labels that no training row has \(fair\)"):
        Classification.from_data(str(tmp_path))
    write(tmp_path, "test", {"sentence": "a film", "class": "good"})
    with pytest.raises(UserError, match=r"train has text, label and test has sentence, class"):
        Language.from_data(str(tmp_path))


def test_splits_that_were_read_otherwise_have_the_default():
    assert origin_of(DatasetDict()) == Origin("train", "validation")


# ---- guesses


def guesses(kind, tmp_path, *rows, **named):
    return list(kind.from_data(write(tmp_path, "rows", *rows), **named).origin.guesses)


def test_a_label_of_several_that_could_be_meant(tmp_path):
    rows = [{"text": "a film", "label": name, "category": "x"} for name in ("good", "bad")]
    assert guesses(Classification, tmp_path, *rows) == ["labels from label, not category (--label)"]
    assert guesses(MultiLabel, tmp_path, *rows) == ["labels from label, not category (--label)"]
    assert not guesses(Classification, tmp_path, *rows, label="label")
    pair = [{"sentence": "a film", "target": "x y", "class": name} for name in ("good", "bad")]
    assert not guesses(Classification, tmp_path, *pair, text=["sentence", "target"], label="class")


def test_columns_of_texts_that_are_not_used(tmp_path):
    rows = [{"id": "x7", "title": "a book", "sentence": "a film", "label": name} for name in ("good", "bad")]
    assert guesses(Classification, tmp_path, *rows) == ["texts from sentence, not title (--text)"]
    assert not guesses(Classification, tmp_path, *rows, text=["title", "sentence"])


def test_whether_numbers_are_classes_or_scores(tmp_path):
    def rows(*labels):
        return [{"text": "a film", "label": label} for label in labels]

    integers = "classes from the integers in label, not scores (--task-option scores=true)"
    assert guesses(Classification, tmp_path, *rows(1, 2, 3)) == [integers]
    assert not guesses(Classification, tmp_path, *rows(0, 1)), "two classes"
    assert not guesses(Classification, tmp_path, *rows(1, 2, 3), scores=True)
    assert not guesses(Classification, tmp_path, *rows(0, 1, 2), labels=["bad", "fair", "good"])
    decimals = "scores from the decimals in label, not classes (--labels)"
    assert guesses(Classification, tmp_path, *rows(0.5, 1.0)) == [decimals]


def test_words_and_tags_of_several_that_could_be_meant(tmp_path):
    row = {"tokens": ["a", "film"], "words": ["a", "Film"], "text": "a film", "ner_tags": ["O", "B-X"]}
    row["pos_tags"] = ["DET", "NOUN"]
    expected = ["words from tokens, not words (--text)", "tags from ner_tags, not pos_tags (--label)"]
    assert guesses(Tokens, tmp_path, row) == expected
    assert not guesses(Tokens, tmp_path, row, text="tokens", label="ner_tags")


def test_the_direction_of_a_translation(tmp_path):
    row = {"en": "a film", "de": "ein Film"}
    task = Translation.from_data(write(tmp_path, "rows", row))
    assert task.origin.guesses == ("sources and targets from en, de, not de, en (--text, --label)",)
    assert task.described() == {"columns": "en, de"}
    assert not guesses(Translation, tmp_path, row, text="en")
    assert not guesses(Translation, tmp_path, {"src": "a film", "tgt": "ein Film"})


def test_questions_name_the_columns_of_the_data(tmp_path):
    rows = [
        {"question": "what?", "context": f"a film {number}", "passage": "", "answer": "film", "answer_start": 2}
        for number in range(4)
    ]
    task = Questions.from_data(write(tmp_path, "rows", *rows))
    assert task.origin.guesses == ("questions and contexts from question, context, not passage (--text)",)
    assert task.described() == {"columns": "question, context, answer"}
