"""Rows that all have the same answer: nothing is learned from them, and no score of them tells models apart."""

import json

import pytest
from datasets import Dataset, Features, Image, Value
from small_world import recipe_values, write_world

from secateur.run import pipeline, recipe
from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.image_data import prepare as prepared_images
from secateur.tasks.images import Images
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.only_answer import check_scored_answers, check_training_answers
from secateur.tasks.reranking import Reranking
from secateur.tasks.tokens import Tokens


def write(folder, **splits):
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def texts(*labels):
    return [{"text": f"a film {number}", "label": label} for number, label in enumerate(labels)]


def sentences(*tags):
    return [{"tokens": ["a", f"film {number}"], "ner_tags": own} for number, own in enumerate(tags)]


CASES = [
    (Classification, texts("good", "bad"), texts("good", "good"), "the label good"),
    (Classification, texts(0.5, 1.5), texts(2.5, 2.5), "the number 2.5"),
    (MultiLabel, texts(["a", "b"], ["c"]), texts(["b", "a"], ["a", "b"]), "the labels a, b"),
    (MultiLabel, texts(["a"], ["b"]), texts([], []), "no label"),
    (Tokens, sentences(["O", "B-X"], ["O", "O"]), sentences(["O", "O"], ["O", "O"]), "the tag O for every word"),
]


@pytest.mark.parametrize(("kind", "several", "one", "said"), CASES)
def test_scored_rows_with_one_answer_are_refused_before_a_run(tmp_path, kind, several, one, said):
    task = kind.from_data(write(tmp_path, train=several * 5, dev=one))
    with pytest.raises(UserError, match=f"^all 2 dev rows have {said}, so that a constant answer is the best: give"):
        check_scored_answers(task)
    check_scored_answers(kind.from_data(write(tmp_path, train=several * 5, dev=several)))


def test_a_single_scored_row_is_refused_in_the_singular(tmp_path):
    task = Classification.from_data(write(tmp_path, train=texts(*["good", "bad"] * 4)))
    with pytest.raises(
        UserError, match=r"^the only one of the rows split off from training has the label (good|bad), so"
    ):
        check_scored_answers(task)


def test_pairs_with_one_label_are_refused_where_correlation_is_the_score(tmp_path):
    rows = [{"query": f"film {number}", "passage": "a", "label": number % 2} for number in range(6)]
    one = [{**row, "label": 0.25} for row in rows]
    task = Reranking.from_data(write(tmp_path, train=rows, dev=one), metric="spearman")
    with pytest.raises(UserError, match=r"dev rows have the label 0\.25 for every pair"):
        check_scored_answers(task)


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        (Classification, texts(*["good"] * 30, "bad"), "the label good"),
        (Classification, texts(*[0.5] * 30, 1.5), "the number 0.5"),
        (MultiLabel, texts(*[["a"]] * 30, ["b"]), "the labels a"),
        (Tokens, sentences(*[["O", "O"]] * 30, ["O", "B-X"]), "the tag O for every word"),
    ],
)
def test_training_rows_that_are_kept_have_several_answers(tmp_path, kind, rows, said):
    data = write(tmp_path, train=rows, dev=rows)
    with pytest.raises(UserError, match=f"^all 3 training rows in use have {said}: use more of them"):
        check_training_answers(kind.from_data(data, rows=3))
    with pytest.raises(UserError, match=r"^the only training row in use has "):
        check_training_answers(kind.from_data(data, rows=1))
    check_training_answers(kind.from_data(data, rows=31))


def test_several_labels_that_all_training_rows_have_are_refused(tmp_path):
    data = write(tmp_path, train=texts(["a", "b"], ["b", "a"]), dev=texts(["a"], ["b"]))
    with pytest.raises(UserError, match="the labels in 'label' are all the same"):
        MultiLabel.from_data(data)


def test_a_run_refuses_a_file_that_was_sorted_and_cut_before_it_trains(tmp_path):
    world = write_world(tmp_path)
    rows = texts(*["bad"] * 12, *["good"] * 16)
    data = tmp_path / "data"
    data.mkdir()
    values = recipe_values(str(world / "encoder"), write(data, train=rows, test=rows[20:]))
    for start in (pipeline.run, pipeline.dry_run):
        with pytest.raises(UserError, match="all 8 test rows have the label good"):
            start(recipe.make(values), tmp_path / "run")
        with pytest.raises(UserError, match="the only training row in use has the label"):
            start(recipe.make(values | {"data.rows": 1}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- labels below 0, which the user names


NAMED = ["-1", "0", "1"]


def test_numbers_below_0_that_are_named_are_classes(tmp_path):
    rows = texts(*[-1, 0, 1] * 10)
    task = Classification.from_data(write(tmp_path, train=rows), labels=NAMED)
    assert task.labels == tuple(NAMED) and {*task.splits["train"]["label"]} == {0, 1, 2}
    tags = sentences(*[[-1, 0], [0, 1]] * 10)
    assert Tokens.from_data(write(tmp_path, train=tags), labels=NAMED, label="ner_tags").labels == tuple(NAMED)
    for fewer in (["0", "1"], ["bad", "fair", "good"]):
        with pytest.raises(
            UserError, match=r"-1 is no label, unless it is named as in --labels=-1,0,1 or made a score"
        ):
            Classification.from_data(write(tmp_path, train=rows), labels=fewer)
    with pytest.raises(UserError, match="a tag below 0 is none unless --labels names it"):
        Tokens.from_data(write(tmp_path, train=tags))


def test_classes_of_images_below_0_that_are_named_are_classes(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / "picture.png"
    pillow.new("RGB", (4, 4)).save(path)
    table = {"image": [{"bytes": path.read_bytes(), "path": None}] * 20, "label": [-1, 1] * 10}
    rows = Dataset.from_dict(table, features=Features({"image": Image(decode=False), "label": Value("int64")}))
    splits = prepared_images({"train": rows, "validation": rows}, None, None, ["-1", "1"])
    assert {*splits["train"]["label"]} == {0, 1}
    with pytest.raises(UserError, match="a class below 0 is none unless --labels names it"):
        prepared_images({"train": rows, "validation": rows}, None, None)
    rows.to_parquet(tmp_path / "train.parquet")
    assert Images.from_data(str(tmp_path / "train.parquet"), labels=["-1", "1"]).labels == ("-1", "1")
