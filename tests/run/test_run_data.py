"""Rows that nothing can be learned from are left out of training, and counted."""

import json
import logging

import pytest
from small_world import recipe_values, write_data, write_model, write_world

from secateur.run import recipe
from secateur.run.run_data import RunData, training_fingerprint, tuning_rows
from secateur.system.errors import UserError

SENTENCE = {"tokens": ["a", "film"], "tags": ["O", "B-A"]}


@pytest.mark.parametrize("held_out", [0, 4])
def test_a_row_without_any_token_is_left_out_and_counted(tmp_path, caplog, held_out):
    blank = {"tokens": [" "], "tags": ["O"]}
    for name, rows in (("train", [SENTENCE] * 9 + [blank]), ("dev", [SENTENCE, blank])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = {"model": write_model(tmp_path / "model"), "data": str(tmp_path), "data.task": "tokens"}
    made = recipe.make(words | {"data.max_length": 24, "training.select": held_out})
    data = RunData(made)
    with caplog.at_level(logging.INFO, "secateur"):
        assert sum(map(len, data.train_parts)) == 9
    assert "have no token with a label: they are left out" in caplog.text
    assert len(data.validation_rows) == 2, "a prediction for every word is scored"
    short = RunData(recipe.make(words | {"data.max_length": 2}))
    with pytest.raises(UserError, match="none of the 10 training rows has a token with a label"):
        short.train_parts  # noqa: B018


def test_the_fingerprint_of_training_data_is_that_of_all_rows_before_the_seed_samples_some(tmp_path):
    world = write_world(tmp_path)

    def found(**changed):
        made = recipe.make(recipe_values(str(world / "classifier"), str(world / "data.csv")) | changed)
        return training_fingerprint(RunData(made))

    assert found() == found(**{"data.rows": 8}) == found(**{"data.rows": 20})


def encoded(data, numbers):
    """The tokens of training rows, in the order of the data."""
    return [data.tokenizer(data.task.splits["train"][number]["text"])["input_ids"] for number in sorted(numbers)]


def test_rows_to_tune_by_are_held_out_of_all_training(tmp_path):
    words = {"model": write_model(tmp_path / "model"), "data": write_data(tmp_path / "data.csv"), "data.max_length": 24}
    data = RunData(recipe.make(words | {"training.select": 5, "data.tuning_rows": 6}))
    total, (selected, rest) = len(data.task.splits["train"]), data.train_parts
    own, chosen, trials = data.shuffled[:6], data.shuffled[6:11], data.shuffled[11 : 11 + data.trial_count]
    assert (len(selected), len(rest), data.trial_count) == (5, total - 11, (total - 11) // 4)
    assert [row["input_ids"] for row in tuning_rows(data)] == encoded(data, own)
    assert sorted(row["input_ids"] for row in selected) == sorted(encoded(data, chosen))
    assert not set(own) & set(trials) and len(data.held_out_rows) == len(trials)
    assert len(data.eval_rows) == 5, "the selection goes first"
    without_selection = RunData(recipe.make(words | {"data.tuning_rows": 6}))
    assert len(without_selection.eval_rows) == 6
    assert tuning_rows(without_selection) == tuning_rows(data), "the same whatever a trial selects by"
    with pytest.raises(UserError, match=r"^training.select: 30 and data.tuning_rows: 6 of the 36 training rows cannot"):
        RunData(recipe.make(words | {"training.select": 30, "data.tuning_rows": 6})).check()
