"""Repositories of data sets: local copies with a card that names configurations, and csv files of the hub."""

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from secateur.system.errors import UserError
from secateur.tasks import repositories
from secateur.tasks.classification import Classification
from secateur.tasks.splits import read_splits

ONE = """---
configs:
- config_name: all
  data_files:
  - split: train
    path: x/part-*.csv
  - split: test
    path: x/held.csv
---
# A data set
"""
TWO = ONE.replace(
    "---\n#",
    """- config_name: small
  data_files: y/*.csv
---
#""",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def cells(rows, start=0):
    return "text,label\n" + "".join(f"text {start + n},00{n % 2}\n" for n in range(rows))


def repository(folder, card=ONE):
    write(folder / "README.md", card)
    write(folder / "x" / "part-0.csv", cells(10))
    write(folder / "x" / "part-1.csv", cells(10, 10))
    write(folder / "x" / "held.csv", "text\nother\n")
    write(folder / "y" / "z.csv", cells(6))
    return folder


def sizes(splits):
    return {name: len(split) for name, split in splits.items()}


def test_a_card_names_the_files_of_each_split(tmp_path):
    data = repository(tmp_path / "d")
    task = Classification.from_data(str(data))
    assert sizes(task.splits) == {"train": 18, "validation": 2}
    assert task.labels == ("000", "001")


def test_one_of_several_configurations_is_named_after_a_colon(tmp_path):
    data = repository(tmp_path / "d", TWO)
    assert sizes(Classification.from_data(f"{data}:all").splits) == {"train": 18, "validation": 2}
    assert sizes(Classification.from_data(f"{data}:small").splits) == {"train": 5, "validation": 1}
    with pytest.raises(UserError, match=r"has several configurations: name one of all, small, as in .*d:all$"):
        read_splits(data)
    with pytest.raises(UserError, match=r"has no configuration 'big': name one of all, small, as in .*d:all$"):
        read_splits(f"{data}:big")


def test_the_default_configuration_of_a_card_is_read(tmp_path):
    data = repository(tmp_path / "d", TWO.replace("small\n", "small\n  default: true\n"))
    assert sizes(Classification.from_data(str(data)).splits) == {"train": 5, "validation": 1}


@pytest.mark.parametrize("card", [None, "# No yaml", "---\nlicense: mit\n---\n# d", "---\nconfigs without end\n"])
def test_a_card_without_configurations_changes_nothing(tmp_path, card):
    write(tmp_path / "d" / "train.csv", cells(20))
    if card:
        write(tmp_path / "d" / "README.md", card)
    assert sizes(read_splits(tmp_path / "d")) == {"train": 18, "validation": 2}
    with pytest.raises(UserError, match=r"has no README.md that names configurations: leave out ':all'"):
        read_splits(f"{tmp_path / 'd'}:all")


def test_a_card_of_missing_files_is_refused_in_a_sentence(tmp_path):
    write(tmp_path / "d" / "README.md", ONE)
    with pytest.raises(UserError, match=r"^data '.*d' cannot be read \("):
        read_splits(tmp_path / "d")


def test_what_else_a_card_states_about_csv_files_holds_and_cells_stay_text(tmp_path):
    card = ONE.replace("path: x/held.csv", "path: x/held.csv\n  sep: '#'\n  column_names: [text, label]")
    data = repository(tmp_path / "d", card)
    for name in ("part-0", "part-1", "held"):
        write(data / "x" / f"{name}.csv", "".join(f"a, {name} NA#00{n % 2}\n" for n in range(10)))
    task = Classification.from_data(str(data))
    assert sizes(task.splits) == {"train": 20, "validation": 10} and task.labels == ("000", "001")
    assert task.splits["validation"]["text"][0] == "a, held NA"


def test_the_classes_of_a_card_are_kept(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5})
    (tmp_path / "d").mkdir()
    rows.to_json(tmp_path / "d" / "rows.jsonl")
    named = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    stated = "\n".join(
        "  " + line
        for line in (
            "features:",
            "- name: text",
            "  dtype: string",
            "- name: label",
            "  dtype:",
            "    class_label:",
            "      names:",
            "        '0': bad",
            "        '1': good",
        )
    )
    card = f"---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\ndataset_info:\n{stated}\n---\n"
    write(tmp_path / "d" / "README.md", card)
    assert read_splits(tmp_path / "d")["train"].features["label"] == named["label"]


def of_the_hub(folder, monkeypatch):
    """Names on the hub are folders here."""
    load = repositories.load_dataset
    monkeypatch.setattr(
        repositories, "load_dataset", lambda name, config, **options: load(str(folder / name), config, **options)
    )


def test_cells_of_csv_files_of_the_hub_are_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "hub" / "org" / "codes" / "train.csv", "text,label\n" + "a,007\nNA,010\n1.50,007\n" * 9)
    write(tmp_path / "hub" / "org" / "codes" / "test.csv", "text,label\nb,007\nnull,010\n")
    of_the_hub(tmp_path / "hub", monkeypatch)
    task = Classification.from_data("org/codes")
    assert task.labels == ("007", "010")
    assert sizes(task.splits) == {"train": 27, "validation": 2}
    assert task.splits["train"]["text"][:3] == ["a", "NA", "1.50"]
    assert task.splits["validation"]["text"][:] == ["b", "null"]


def test_numbers_in_csv_files_of_the_hub_are_still_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "hub" / "scores" / "train.csv", "text,label\n" + "a,0.5\nb,1\n" * 9)
    write(tmp_path / "hub" / "stars" / "train.csv", "text,label\n" + "a,1\nb,10\nc,2\n" * 9)
    of_the_hub(tmp_path / "hub", monkeypatch)
    assert Classification.from_data("scores").labels is None
    assert Classification.from_data("stars").labels == ("1", "2", "10")
