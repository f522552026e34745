"""The length of a run, in epochs or in optimizer steps."""

import json

import pytest
from small_world import recipe_values, write_data, write_model

from secateur.run import pipeline, recipe
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return recipe_values(write_model(folder / "model", ["bad", "good"]), write_data(folder / "data.csv"))


def steps_of(folder):
    """Stage -> its number of steps."""
    return {line["stage"]: line["of"] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}


def test_steps_are_those_of_pruning_and_recovery_together(values, tmp_path):
    made = recipe.make(values | {"training.epochs": None, "training.steps": 20})
    pipeline.run(made, tmp_path / "run")
    assert steps_of(tmp_path / "run") == {"prune": 9, "recover": 11}


def test_steps_on_the_command_line_replace_the_epochs_of_a_file_and_of_the_defaults(values, tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ntraining: {epochs: 3}\n")
    training = recipe.read(tmp_path / "r.yaml", {"training.steps": 500}).training
    assert (training.epochs, training.steps) == (None, 500)
    least = {name: value for name, value in values.items() if name != "training.epochs"}
    assert recipe.make(least | {"training.steps": 7}).training.epochs is None


@pytest.mark.parametrize("steps", [20, None])
def test_a_run_has_one_length(values, steps):
    epochs = None if steps is None else 3
    with pytest.raises(UserError, match="are both the length of the run: set one of them"):
        recipe.make(values | {"training.epochs": epochs, "training.steps": steps})
