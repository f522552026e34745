"""The recipes that follow a paper: what a run by them does is what was published, or is named as what differs."""

from pathlib import Path

import pytest

from secateur.run import recipe

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*-faithful.yaml"))

faithful = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@faithful
def test_a_teacher_is_named_or_trained_for_a_given_length_at_a_given_rate(path):
    """The search for both has `teacher_steps` in all, of which large data sets have more in one epoch."""
    read = recipe.read(path, {})
    given = (read.training.teacher_epochs, read.training.teacher_learning_rate)
    assert (read.teacher is None) == all(given) == any(given)


def test_the_teacher_of_cofi_is_the_published_one():
    training = recipe.read(next(path for path in FILES if path.stem == "cofi-faithful"), {}).training
    assert (training.teacher_epochs, training.teacher_learning_rate, training.batch_size) == (5.0, 2e-5, 32)


@faithful
def test_all_rows_are_trained_on_in_fp32(path):
    read = recipe.read(path, {})
    assert (read.method.ramp_rows, read.training.bf16, read.data.tuning_rows) == (0, False, 0)


@faithful
def test_the_header_says_what_differs(path):
    assert "# What differs: " in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("method", "seed"), [("grain", 1337), ("cofi", 57), ("movement", 17), ("subset", 42)])
def test_the_seed_is_the_published_one(method, seed):
    assert recipe.read(FILES[0].with_name(f"{method}-faithful.yaml"), {}).seed == seed
