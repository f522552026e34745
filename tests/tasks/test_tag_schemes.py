"""Entities are scored as such in every scheme, and with one result."""

import json

import pytest

from secateur.tasks.tag_schemes import common_tags
from secateur.tasks.tokens import Tokens

GOLD = ["B-A", "I-A", "I-A", "O", "B-B", "B-A", "I-A"]
GUESS = ["B-A", "I-A", "O", "O", "B-B", "B-A", "I-A"]


def written(tags, first, inside, last, single, form="{part}-{kind}"):
    """BIO tags in another scheme."""
    said = []
    for place, tag in enumerate(tags):
        part, _, kind = tag.partition("-")
        ends = place + 1 == len(tags) or not tags[place + 1].startswith("I")
        parts = {"B": single if ends else first, "I": last if ends else inside}
        said.append("O" if tag == "O" else form.format(part=parts[part], kind=kind))
    return said


@pytest.mark.parametrize("parts", ["BIIB", "BIES", "BILU", "BMES", "BMEW"])
@pytest.mark.parametrize("form", ["{part}-{kind}", "{part}_{kind}", "{kind}-{part}"])
def test_f1_is_that_of_bio_in_every_scheme(tmp_path, parts, form):
    said, guess = (written(tags, *parts, form) for tags in (GOLD, GUESS))
    rows = [json.dumps({"tokens": list("abcdefg"), "ner_tags": tags}) for tags in (said, guess)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows * 10))
    task = Tokens.from_data(str(tmp_path / "data.jsonl"))
    numbers = [[task.labels.index(tag) for tag in tags] for tags in (said, guess)]
    scores = task._metrics([numbers[0]], [numbers[1]])
    assert task.metric == "f1" and task.labels[0] == "O"
    assert (scores["precision"], scores["recall"]) == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("labels", "common"),
    [
        (("O", "I"), ("O", "I-entity")),
        (("O", "B", "I"), ("O", "B-entity", "I-entity")),
        (("B", "M", "E", "S"), ("B-entity", "I-entity", "E-entity", "S-entity")),
        (("O", "I-A", "B-B", "I-B"), ("O", "I-A", "B-B", "I-B")),
        (("O", "PER", "LOC"), None),
        (("N", "V", "O"), None),
        (("O", "S"), None),
        (("B-A", "L-A", "E-A"), None),
        (("NOUN", "VERB", "X"), None),
    ],
)
def test_what_marks_entities(labels, common):
    assert common_tags(labels) == common


def test_integers_are_named_by_the_option_and_never_by_guess(tmp_path):
    rows = json.dumps({"tokens": ["a", "b", "c"], "ner_tags": [0, 1, 8]})
    (tmp_path / "data.jsonl").write_text("\n".join([rows] * 20))
    names = [*(f"{part}-{kind}" for kind in "ABCD" for part in "BI"), "O"]
    task = Tokens.from_data(str(tmp_path / "data.jsonl"), labels=names)
    assert (task.labels, task.metric) == (tuple(names), "f1")
