"""The names of the splits in the data, and what a task guessed of its columns, with the option that says otherwise."""

import json

import pytest
from datasets import Dataset, DatasetDict
from small_world import write_model

from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.embedding import SentenceEmbedding
from secateur.tasks.guesses import holds_words
from secateur.tasks.images import Images
from secateur.tasks.language import Language
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.origin import Origin, origin_of
from secateur.tasks.questions import Questions
from secateur.tasks.reranking import Reranking
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


# ---- splits that are not scored


NOT_USED = "scored rows split off from train, not from {0} (--task-option validation={0})"


@pytest.mark.parametrize("name", ["eval", "holdout", "testing", "validation_mismatched", "part2"])
def test_a_labelled_split_of_another_name_is_named_and_can_be_scored(tmp_path, name):
    write(tmp_path, "train", *LABELLED)
    write(tmp_path, name, *LABELLED, times=2)
    write(tmp_path, "unlabelled", {"text": "a film"})
    write(tmp_path, "labels", {"label": "good"})
    (tmp_path / "notes.txt").write_text("a text\n")
    origin = Classification.from_data(str(tmp_path)).origin
    assert origin.scored is None and origin.unread == (name,) and origin.guesses == (NOT_USED.format(name),)
    task = Classification.from_data(str(tmp_path), validation=name)
    assert len(task.splits["validation"]) == 4 and task.origin == Origin("train", name)


def test_other_splits_beside_a_test_are_named_and_beside_a_validation_are_not(tmp_path):
    for name in ("train", "test", "holdout"):
        write(tmp_path, name, *LABELLED)
    said = "scored rows from test, not from holdout (--task-option validation=holdout)"
    assert Classification.from_data(str(tmp_path)).origin.guesses == (said,)
    write(tmp_path, "dev", *LABELLED)
    assert Classification.from_data(str(tmp_path)).origin == Origin("train", "dev")


def test_folders_of_other_names_beside_train_are_splits(tmp_path):
    for name in ("train", "eval"):
        write(tmp_path / name, "rows", *LABELLED)
    assert Classification.from_data(str(tmp_path)).origin.unread == ("eval",)
    assert Classification.from_data(str(tmp_path), validation="eval").origin.scored == "eval"
    pillow = pytest.importorskip("PIL.Image")
    for split in ("train", "holdout"):
        for number, name in enumerate(("cat", "dog") * 5):
            (tmp_path / "images" / split / name).mkdir(parents=True, exist_ok=True)
            pillow.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / split / name / f"{number}.png")
    assert Images.from_data(str(tmp_path / "images")).origin.unread == ("holdout",)
    assert len(Images.from_data(str(tmp_path / "images"), validation="holdout").splits["validation"]) == 10


def test_every_task_takes_the_name_of_the_split_that_is_scored(tmp_path):
    asked = {"question": "what?", "answers": {"text": ["film"], "answer_start": [2]}}
    rows = {
        MultiLabel: [{"text": "a film", "label": own} for own in (["a"], ["b"])],
        Tokens: [{"tokens": ["a", "film"], "tags": ["N", "V"]}],
        Questions: [asked | {"context": f"a film {number}"} for number in range(4)],
        Reranking: [{"query": f"film {number}", "passage": "a", "label": number % 2} for number in range(6)],
        SentenceEmbedding: [{"text": f"a film {number}"} for number in range(4)],
    }
    for kind, own in rows.items():
        folder = tmp_path / kind.__name__
        train = [{**row, "text": f"{row['text']} {number}"} if "text" in row else row for number, row in enumerate(own)]
        write(folder, "train", *train)
        write(folder, "eval", *own)
        assert kind.from_data(str(folder)).origin.unread == ("eval",), kind
        if kind is not SentenceEmbedding:  # which trains on no text that is scored
            assert kind.from_data(str(folder), validation="eval").origin.scored == "eval"
    other = [{"text": f"a book {number}"} for number in range(4)]
    write(tmp_path / "SentenceEmbedding", "eval", *other)
    task = SentenceEmbedding.from_data(str(tmp_path / "SentenceEmbedding"), validation="eval")
    assert task.origin.scored == "eval" and len(task.splits["validation"]) == 4


def test_texts_to_score_are_named_by_the_option_of_their_task(tmp_path):
    for name in ("train", "eval"):
        write(tmp_path, name, {"text": "a film"})
    assert Language.from_data(str(tmp_path)).origin.guesses == (
        "scored rows split off from train, not from eval (--eval=eval)",
    )
    named = Language.from_data(str(tmp_path), evaluation="eval").origin
    assert (named.scored, named.guesses, named.unread) == ("eval", (), ())


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


@pytest.mark.parametrize(
    ("texts", "several"),
    [
        (["good", "bad"], False),
        (["a fine film", "bad"], True),
        (["正面", "负面"], False),
        (["这部电影非常好看", "正面"], True),
        (["とても面白い映画でした"], True),
        (["หนังเรื่องนี้สนุกมาก"], True),
        (["хорошо", None], False),
    ],
)
def test_a_column_of_sentences_is_known_in_scripts_without_spaces_too(texts, several):
    assert holds_words(Dataset.from_dict({"said": texts}), "said") == several
