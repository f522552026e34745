"""Validation rows that are split off: stratified, no class without a row on either side, and no text on both."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from secateur.tasks.images import Images
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.reranking import Reranking
from secateur.tasks.split_off import split_off
from secateur.tasks.translation import Translation

SEEDS = range(8)


def labelled(*labels):
    return Dataset.from_dict({"text": [f"text {number}" for number in range(len(labels))], "label": list(labels)})


def of_classes(*counts, names=None):
    """Rows of so many of each class, all of them different."""
    rows = labelled(*(number for number, count in enumerate(counts) for _ in range(count)))
    feature = ClassLabel(names=names or [f"class {number}" for number in range(len(counts))])
    return rows.cast(Features(text=Value("string"), label=feature))


@pytest.mark.parametrize("rare", [2, 4, 9, 10, 15, 30])
@pytest.mark.parametrize("first", [False, True])
def test_a_rare_class_has_its_part_of_the_rows(rare, first):
    counts = (rare, 200 - rare) if first else (200 - rare, rare)
    for seed in SEEDS:
        scored = split_off(of_classes(*counts), "label", 0.1, seed)["validation"]["label"][:]
        assert abs(scored.count(0 if first else 1) - max(1, rare / 10)) <= 1
        assert 20 <= len(scored) <= 21


def test_a_class_of_one_row_is_not_split_off_and_more_classes_than_rows_to_split_off_are_drawn():
    assert 1 not in split_off(of_classes(30, 1, 30), "label", 0.1, 0)["validation"]["label"][:]
    many = split_off(of_classes(*[4] * 50), "label", 0.1, 0)["validation"]
    assert len(many) == 20 == len({*many["label"]})


def test_equal_texts_are_on_one_side():
    rows = Dataset.from_dict({"text": [f"text {n // 2}" for n in range(60)], "label": ["a", "b", "c"] * 20})
    for seed in SEEDS:
        splits = split_off(rows, "label", 0.1, seed)
        assert not {*splits["train"]["text"]} & {*splits["validation"]["text"]}
        assert len(splits["validation"]) in (6, 8)
        assert len(splits["train"]) + len(splits["validation"]) == 60


def test_few_texts_that_are_repeated_are_split_by_rows():
    rows = Dataset.from_dict({"text": ["good film", "bad film"] * 20, "label": [1, 0] * 20})
    assert sorted(split_off(rows, "label", 0.1, 0)["validation"]["label"]) == [0, 0, 1, 1]


def test_target_texts_are_no_classes(tmp_path):
    lines = [f"one {n}\tun {max(n, 3)}" for n in range(50)]  # four equal targets
    (tmp_path / "pairs.tsv").write_text("\n".join(["source\ttarget", *lines]))
    assert len(Translation.from_data(str(tmp_path / "pairs.tsv")).splits["validation"]) == 5


@pytest.mark.parametrize("names", ["source\ttarget", "en\tde", "article\thighlights"])
def test_a_source_of_several_targets_is_on_one_side_whatever_the_columns_are_called(tmp_path, names):
    lines = [f"one {n}\tun {n} {again}" for n in range(50) for again in range(2)]
    (tmp_path / "pairs.tsv").write_text("\n".join([names, *lines]))
    splits = Translation.from_data(str(tmp_path / "pairs.tsv"), text=names.split()[0], label=names.split()[1]).splits
    assert len(splits["validation"]) == 10
    assert not {*splits["train"]["source"]} & {*splits["validation"]["source"]}


def test_an_image_in_two_files_is_on_one_side(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for number in range(40):
        for place in (tmp_path / f"{number % 2}" / f"{number}-{again}.png" for again in range(2)):
            place.parent.mkdir(exist_ok=True)
            pillow.new("RGB", (2, 2), (number, 0, 0)).save(place)
    splits = Images.from_data(str(tmp_path)).splits
    assert len(splits["validation"]) == 8
    assert not {*splits["train"]["digest"]} & {*splits["validation"]["digest"]}


@pytest.mark.parametrize("label", ["labels", "score"])
def test_numbers_of_passages_are_no_classes_and_queries_are_split_by_whether_they_rank(tmp_path, label):
    rows = [{"query": f"q {n}", "passages": ["a", "b", "c"], label: [n / 300 + 0.5, 0.0, 0.0]} for n in range(150)]
    rows += [{"query": f"none {n}", "passages": ["a", "b"], label: [0.0, 0.0]} for n in range(50)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for seed in SEEDS[:3]:
        task = Reranking.from_data(str(tmp_path / "d.jsonl"), label=label, seed=seed)
        assert task.metric == "mrr@10" and len(task.splits["validation"]) == 20
        assert sum(any(own) for own in task.splits["validation"]["labels"]) == 15


def test_the_only_row_of_a_label_among_several_stays():
    rows = labelled(*[["a"], ["b"], ["a", "b"]] * 12, ["a", "once"], ["twice"], ["b", "twice"])
    for seed in SEEDS:
        splits = split_off(rows, "label", 0.1, seed)
        train, scored = ({name for own in splits[key]["label"] for name in own} for key in ("train", "validation"))
        assert train == {"a", "b", "once", "twice"}
        assert "once" not in scored


def write(folder, **splits):
    for name, lines in splits.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return str(folder)


@pytest.mark.parametrize("hidden", [["text", "a text", "another"], ["text,rude,loud", "a text,-1,-1", "another,-1,-1"]])
def test_a_test_split_without_columns_of_labels_is_left_out(tmp_path, hidden):
    lines = [f"text {n},{n % 2},{n % 3 % 2}" for n in range(30)]
    data = write(tmp_path, train=["text,rude,loud", *lines], test=hidden)
    task = MultiLabel.from_data(data, label="rude, loud")
    assert task.origin.scored is None
    assert len(task.splits["validation"]) == 3
