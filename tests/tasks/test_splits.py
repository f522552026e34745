"""Finding and reading splits: folders as the hub lays them, parallel lines, compressed files, splits without labels."""

import gzip
import json
import logging

import pytest
from datasets import Dataset, DatasetDict

from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.data_files import read_files
from secateur.tasks.language import Language
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.questions import Questions
from secateur.tasks.splits import read_splits
from secateur.tasks.tokens import Tokens
from secateur.tasks.translation import Translation

TEXTS = [f"film {number}" for number in range(20)]
LABELLED = "id,text,label\n" + "".join(f"{number},{text},{number % 2}\n" for number, text in enumerate(TEXTS))
UNLABELLED = "id,text\n" + "".join(f"{number},other {number}\n" for number in range(7))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def parquet(path, rows=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"text": TEXTS[:rows], "label": [0, 1] * (rows // 2)}).to_parquet(path)


def sizes(splits):
    return {name: len(split) for name, split in splits.items()}


# ---- splits without labels


@pytest.mark.parametrize(
    "test",
    [UNLABELLED, "text,label\nother,\nmore,\n", "text,label\nother,-1\nmore,-1\n", "text,target\nother,1\nmore,0\n"],
    ids=["no column", "an empty column", "-1", "another column"],
)
def test_a_split_without_labels_counts_as_missing_and_is_named(tmp_path, test, caplog):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "test.csv", test)
    with caplog.at_level(logging.INFO, "secateur"):
        task = Classification.from_data(str(tmp_path))
    assert sizes(task.splits) == {"train": 18, "validation": 2}
    assert {*task.splits["train"]["text"], *task.splits["validation"]["text"]} == {*TEXTS}
    assert "'test' has no values in the column 'label'" in caplog.text


def test_a_validation_split_without_the_column_is_refused(tmp_path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "dev.csv", UNLABELLED)
    with pytest.raises(UserError, match="'dev' lacks the column 'label' of the training split: add it"):
        Classification.from_data(str(tmp_path))


def test_a_named_split_without_labels_is_refused(tmp_path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "test.csv", UNLABELLED)
    with pytest.raises(UserError, match=r"no labelled split 'test', with the column 'label' filled, for validation"):
        read_splits(tmp_path, validation="test", label=("label",))


def test_every_task_leaves_out_a_split_without_labels(tmp_path):
    def lines(folder, **splits):
        for name, row in splits.items():
            write(tmp_path / folder / f"{name}.jsonl", (row + "\n") * 20)
        return str(tmp_path / folder)

    tagged = lines("a", train='{"tokens": ["a", "b"], "tags": ["N", "V"]}', test='{"tokens": ["c", "d"]}')
    empty = lines("b", train='{"tokens": ["a", "b"], "tags": ["N", "V"]}', test='{"tokens": ["c"], "tags": []}')
    hidden = lines("c", train='{"tokens": ["a", "b"], "tags": [0, 1]}', test='{"tokens": ["c"], "tags": [-1]}')
    for data in (tagged, empty, hidden):
        assert sizes(Tokens.from_data(data).splits) == {"train": 18, "validation": 2}
    texts = lines("d", train='{"source": "a", "target": "b"}', test='{"source": "c", "target": ""}')
    assert sizes(Translation.from_data(texts).splits) == {"train": 18, "validation": 2}
    asked = '{"question": "q?", "context": "a film %s", "answers": {"text": ["film"], "answer_start": [2]}}\n'
    write(tmp_path / "e" / "train.jsonl", "".join(asked % number for number in range(20)))
    lines("e", test='{"question": "q?", "context": "a film"}')
    assert sizes(Questions.from_data(str(tmp_path / "e")).splits) == {"train": 18, "validation": 2}


PAIR = {"en": "a", "de": "b"}


@pytest.mark.parametrize("as_record", [False, True])
@pytest.mark.parametrize("test", [{"en": "a"}, {"en": "a", "de": ""}, {"en": "a", "de": None}])
@pytest.mark.parametrize("named", [{}, {"text": "en", "label": "de"}])
def test_a_test_split_of_sources_only_counts_as_missing(tmp_path, as_record, test, named):
    row = (lambda texts: json.dumps({"translation": texts})) if as_record else json.dumps
    write(tmp_path / "train.jsonl", (row(PAIR) + "\n") * 20)
    write(tmp_path / "test.jsonl", (row(test) + "\n") * 5)
    assert sizes(Translation.from_data(str(tmp_path), **named).splits) == {"train": 18, "validation": 2}
    with pytest.raises(UserError, match="no labelled split 'test', with the column 'de' filled, for validation"):
        Translation.from_data(str(tmp_path), validation="test", **named)


def test_a_split_of_one_language_names_the_missing_column(tmp_path):
    write(tmp_path / "train.jsonl", (json.dumps(PAIR) + "\n") * 20)
    write(tmp_path / "dev.jsonl", '{"en": "a"}\n')
    with pytest.raises(UserError, match="'dev' lacks the column 'de' of the training split: add it"):
        Translation.from_data(str(tmp_path))
    with pytest.raises(UserError, match="the dev split lacks the column 'de' of the training split: add it"):
        Translation.from_data(str(tmp_path), text="de")


# ---- folders


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00002-a09b74b3ef9c3b56.parquet", "data/test-00000-of-00001-b42a775f407cee45.parquet"),
        ("plain_text/train-00000-of-00002.parquet", "plain_text/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
    ],
)
def test_folders_as_the_hub_has_them(tmp_path, train, test):
    write(tmp_path / "README.md", "# A data set")
    write(tmp_path / "dataset_infos.json", "{}")
    write(tmp_path / ".cache" / "train.csv", LABELLED)
    parquet(tmp_path / train)
    parquet(tmp_path / train.replace("00000-of", "00001-of").replace("0000.", "0001."))
    parquet(tmp_path / test, 4)
    assert sizes(read_splits(tmp_path)) == {"train": 12, "validation": 4}


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (("train-00000-of-00002.parquet",), "lacks piece 1, counted from 0, of the split of train-00000-of-00002"),
        (("data/train-00001-of-00003.parquet", "data/train-00002-of-00003.parquet"), "lacks piece 0"),
        (("train/a-00001-of-00002.parquet",), "lacks piece 0"),
        (("train-00000-of-00001.parquet", "train-00000-of-00001-a0.parquet"), "several versions of the pieces"),
        (
            ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
            "several versions",
        ),
    ],
)
def test_a_split_of_which_a_piece_is_missing_or_there_twice_is_refused(tmp_path, pieces, message):
    for piece in pieces:
        parquet(tmp_path / piece)
    with pytest.raises(UserError, match=message):
        read_splits(tmp_path)


def test_a_folder_of_several_sets_is_refused_by_their_names(tmp_path):
    for name in ("cola", "sst2"):
        parquet(tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"several sets of data \(cola, sst2\): give the folder of one"):
        read_splits(tmp_path)
    assert sizes(read_splits(tmp_path / "cola")) == {"train": 5, "validation": 1}


# ---- forms


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet", "txt"])
def test_a_compressed_file_is_read_as_the_file_itself(tmp_path, suffix):
    rows = Dataset.from_dict({"text": TEXTS})
    plain = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        rows.to_parquet(plain)
    elif suffix.startswith("json"):
        rows.to_json(plain, lines=suffix == "jsonl")
    else:
        write(plain, "\n".join(TEXTS if suffix == "txt" else ["text", *TEXTS]))
    packed = tmp_path / "packed" / f"train.{suffix}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    splits = [read_splits(data) for data in (plain, packed, packed.parent)]
    assert splits[0]["train"].to_dict() == splits[1]["train"].to_dict() == splits[2]["train"].to_dict()
    assert sizes(splits[0]) == {"train": 18, "validation": 2}
    packed.write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"train\..*gz' cannot be read"):
        read_splits(packed)


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
@pytest.mark.parametrize("whole", [True, False], ids=["all columns", "one column"])
def test_a_format_is_no_part_of_the_data_of_a_folder(tmp_path, kind, whole):
    rows = {"text": TEXTS, "label": [0, 1] * 10, "tokens": [["a", "b"]] * 20, "tags": [["N", "V"]] * 20}
    split = Dataset.from_dict(rows).with_format(kind, columns=None if whole else ["label"])
    split.save_to_disk(tmp_path / "one")
    DatasetDict(train=split, validation=split).save_to_disk(tmp_path / "both")
    for data in (str(tmp_path / "one"), str(tmp_path / "both")):
        texts = Classification.from_data(data)
        assert {*texts.splits["train"]["text"], *texts.splits["validation"]["text"]} == {*TEXTS}
        assert texts.splits["train"][0]["label"] in (0, 1) and texts.labels == ("LABEL_0", "LABEL_1")
        assert Tokens.from_data(data, text="tokens", label="tags").splits["train"][0]["tokens"] == ["a", "b"]
        assert Language.from_data(data, text="text").splits["train"][0]["text"] in TEXTS


def parallel(folder, split, names=("{}.en", "{}.de"), count=20):
    for name in names:
        content = "".join(f"{name} line\u2028 {number}\n" for number in range(count))
        path = write(folder / name.format(split), content)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(content.encode()))
    return folder


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("{}.en", "{}.de"), ("de", "en")),
        (("{}.en.txt", "{}.de.txt"), ("de", "en")),
        (("{}.en.gz", "{}.de.gz"), ("de", "en")),
        (("{}.de-en.en", "{}.de-en.de"), ("de", "en")),
        (("{}.source", "{}.target"), ("source", "target")),
        (("{}.src", "{}.tgt"), ("src", "tgt")),
        (("{}.pt_BR", "{}.en"), ("en", "pt_BR")),
    ],
)
def test_parallel_lines_in_two_files(tmp_path, names, columns):
    parallel(tmp_path, "train", names)
    parallel(tmp_path, "valid", names, count=3)
    splits = read_splits(tmp_path)
    assert sizes(splits) == {"train": 20, "validation": 3}
    assert tuple(splits["train"].column_names) == columns
    task = Translation.from_data(str(tmp_path), text=columns[1], label=columns[0])
    assert task.splits["train"][0]["source"].endswith(" line\u2028 0")
    assert sizes(read_splits(tmp_path / names[0].format("train"))) == {"train": 18, "validation": 2}


def test_a_split_of_one_side_only_is_no_split(tmp_path):
    write(parallel(tmp_path, "train") / "test.en", "a line\n")
    assert sizes(Translation.from_data(str(tmp_path), text="en", label="de").splits) == {"train": 18, "validation": 2}


def test_other_files_beside_data_are_not_read(tmp_path):
    write(tmp_path / "train.csv", LABELLED)
    for name in ("train.py", "train.sh", "README.md", "train.log"):
        write(tmp_path / name, "x\n")
    assert sizes(Classification.from_data(str(tmp_path)).splits) == {"train": 18, "validation": 2}


def test_files_that_are_not_parallel_are_refused_with_their_lines(tmp_path):
    write(parallel(tmp_path, "train") / "train.de", "one\ntwo\n")
    with pytest.raises(UserError, match=r"train\.de has 2 lines.*train\.en has 20 lines.*give parallel files"):
        read_splits(tmp_path)
    write(tmp_path / "train.de.txt", "one\n")
    with pytest.raises(UserError, match="are the same split twice"):
        read_splits(tmp_path)


def test_a_refusal_lists_what_can_be_read(tmp_path):
    for data in (write(tmp_path / "train.xml", "<a/>"), tmp_path, write(tmp_path / "lone" / "train.en", "a\n")):
        with pytest.raises(UserError, match=r"parquet, csv, tsv, jsonl, json or txt .*\.gz.*train\.en and train\.de"):
            read_splits(data)


# ---- names of columns


@pytest.mark.parametrize("names", ["Text,Label", "SENTENCE,Sentiment", "Text,Category", "text,target"])
def test_the_case_of_a_usual_name_is_ignored(tmp_path, names):
    write(tmp_path / "train.csv", names + "\n" + "a,good\nb,bad\n" * 10)
    write(tmp_path / "test.csv", names.split(",")[0] + "\nc\n")
    task = Classification.from_data(str(tmp_path))
    assert task.labels == ("bad", "good") and sizes(task.splits) == {"train": 18, "validation": 2}


def test_a_name_that_is_exact_comes_before_one_that_is_not(tmp_path):
    data = write(tmp_path / "d.csv", "Text,text,Label,label\n" + "A,a,x,0\nB,b,y,1\n" * 9)
    task = Classification.from_data(str(data))
    assert {*task.splits["train"]["text"]} == {"a", "b"} and task.label == "label"


def test_a_missing_line_of_names_is_pointed_out(tmp_path):
    data = write(tmp_path / "d.csv", "a fine film,1\n" + "a dull book,0\nanother fine film,1\n" * 9)
    with pytest.raises(UserError, match=r"no text under a usual name: give one of a fine film, 1 .* write the names"):
        Classification.from_data(str(data))
    write(tmp_path / "two" / "train.csv", data.read_text())
    write(tmp_path / "two" / "dev.csv", "a film,0\na book,1\n")
    with pytest.raises(UserError, match=r"no column in common \(train has a fine film, 1 and dev has a film, 0"):
        Classification.from_data(str(tmp_path / "two"))


# ---- shards that do not say how many they are


@pytest.mark.parametrize(
    "names",
    [
        ["train_{}", "test_{}"],
        ["train-{}", "test-{}"],
        ["data/train-0000{}", "data/test-0000{}"],
        ["train.{}", "test"],
        ["train/part-{}", "test/part-{}"],
    ],
)
def test_numbered_files_are_the_pieces_of_a_split_in_their_order(tmp_path, names):
    for name in names:
        for number in range(12 if "train" in name and "0000" not in name and "{}" in name else 2):
            path = tmp_path / f"{name.format(number)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict({"text": [f"{name} {number}"], "label": [number % 2]}).to_parquet(path)
    splits = read_splits(tmp_path)
    count = len(splits["train"])
    assert count == (2 if "data" in names[0] else 12) and set(splits) == {"train", "validation"}
    if "/part" not in names[0]:
        assert splits["train"]["text"][:] == [f"{names[0]} {number}" for number in range(count)]


@pytest.mark.parametrize(
    "name", ["part-{}", "part_{}", "000{}", "shard{}", "part-0000{}-2f1c9a3e-1b2c-4d5e-8f90-a1b2c3d4e5f6-c000.snappy"]
)
def test_numbered_files_without_the_name_of_a_split_are_training_rows(tmp_path, name):
    for number in range(3):
        parquet(tmp_path / f"{name.format(number)}.parquet")
    assert sizes(read_splits(tmp_path)) == {"train": 16, "validation": 2}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train_0", "train_2"), "lacks the file number 1 beside train_0.parquet: add it"),
        (("part-0", "part-1", "part-4"), "lacks the file number 2"),
        (("train_1", "train-1"), "several files of one number"),
        (("train_2019", "train_2020"), r"no labelled split 'train' .*train_2019, train_2020"),
        (("test_0", "test_1"), r"no labelled split 'train' .*\(test\)"),
        (("part-0", "shard-0"), r"no labelled split 'train' .*part-0, shard-0"),
    ],
)
def test_numbered_files_that_are_no_pieces_or_not_all_are_refused(tmp_path, names, message):
    for name in names:
        parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=message):
        read_splits(tmp_path)


def test_a_file_with_the_name_of_a_split_comes_before_numbered_ones(tmp_path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "train_1.csv", LABELLED)
    assert sizes(read_splits(tmp_path)) == {"train": 18, "validation": 2}


# ---- classes as folders or files, and records


IMDB = ["train/pos/0_9", "train/pos/1_7", "train/neg/0_3", "train/urls_pos", "test/pos/0_10", "test/neg/0_2", "imdbEr"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (IMDB, "neg/, pos/"),
        (["pos/1", "pos/2", "neg/3"], "neg/, pos/"),
        (["data/pos/1", "data/neg/3"], "neg/, pos/"),
        (["pos", "neg"], "neg.txt, pos.txt"),
        (["train/pos", "train/neg", "test/pos", "test/neg"], "neg.txt, pos.txt"),
    ],
)
def test_texts_by_class_are_refused_by_the_names_of_the_classes(tmp_path, names, said):
    for name in names:
        write(tmp_path / f"{name}.txt", "a fine film\n")
    with pytest.raises(UserError, match=f"has its texts in {said}, which may be classes .* parquet, csv") as error:
        read_splits(tmp_path)
    assert "one file with a column of texts and one of labels" in str(error.value)


@pytest.mark.parametrize("beside", ["raw/pos/1.txt", "raw/1.txt", "neg.txt"])
def test_texts_beside_the_file_of_a_split_are_not_read(tmp_path, beside):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / beside, "a fine film\n")
    write(tmp_path / beside.replace("pos", "neg").replace("raw", "docs"), "a fine film\n")
    assert sizes(read_splits(tmp_path)) == {"train": 18, "validation": 2}


def test_fields_of_records_are_columns(tmp_path):
    rows = [{"id": number, "data": {"text": text, "label": number % 2}} for number, text in enumerate(TEXTS)]
    data = write(tmp_path / "train.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"no text under a usual name: give one of id, data.text, data.label by `text`"):
        Classification.from_data(str(data))
    with pytest.raises(UserError, match=r"no label under a usual name: give one of id, data.text, data.label"):
        MultiLabel.from_data(str(data), text=["data.text"])
    with pytest.raises(UserError, match=r"no text under a usual name: give one of id, data.text, data.label"):
        Tokens.from_data(str(data))
    write(tmp_path / "test.jsonl", json.dumps({"id": 1, "data": {"text": "other", "label": -1}}))
    task = Classification.from_data(str(tmp_path), text=["data.text"], label="data.label")
    assert sizes(task.splits) == {"train": 18, "validation": 2} and task.labels == ("LABEL_0", "LABEL_1")


def test_objects_of_several_types_are_no_column_and_stop_no_others_from_being_read(tmp_path, caplog):
    """As the metadata of many corpora; a plain value of another type than the others is still refused."""
    values = [{"url": "x"}, {"url": 3}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": "a film", "metadata": own}) for own in values))
    assert read_files([path]).to_dict() == {"text": ["a film"] * 2}
    assert "the column 'metadata'" in caplog.text and "is left out" in caplog.text
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("a film", 3)))
    with pytest.raises(UserError, match="cannot be read"):
        read_files([path])
