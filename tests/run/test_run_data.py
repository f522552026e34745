"""Rows that nothing can be learned from are left out of training, and counted."""

import json
import logging

import pytest
from small_world import write_model

from secateur.run import recipe
from secateur.run.run_data import RunData
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
