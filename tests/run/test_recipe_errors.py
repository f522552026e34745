"""Errors of a recipe: in plain words, and with the keys of a file or the options of the command line."""

import pytest

from secateur.cli.errors import explained
from secateur.run import recipe
from secateur.run.recipe import COMMAND_LINE
from secateur.system.errors import InRecipe, UserError

LEAST = {"model": "m", "data.source": "d"}


def refused(values, source=COMMAND_LINE):
    with pytest.raises(UserError) as refusal:
        recipe.make(LEAST | values, source)
    return refusal.value


@pytest.mark.parametrize(
    ("values", "key", "option", "words"),
    [
        ({"training.epochs": -1}, "training.epochs", "--epochs", "expected a number above 0, not -1"),
        ({"training.steps": "abc"}, "training.steps", "--steps", "expected a whole number, not 'abc'"),
        ({"data.labels": ["a"]}, "data.labels", "--labels", "expected at least 2, separated by commas, not ['a']"),
        ({"storage.dtype": "fp8"}, "storage.dtype", "--store", "expected 'fp32', 'bf16' or 'fp16', not 'fp8'"),
        ({"target.embedding_rank": 0}, "target.embedding_rank", "--embedding-rank", "number above 0 or 'auto', not 0"),
        ({"seed": -1}, "seed", "--seed", "expected a number that is at least 0, not -1"),
        ({"target.keep": "x", "target.density": None}, "target.keep", "--keep", "expected a whole number, not 'x'"),
    ],
)
def test_a_value_that_does_not_fit(values, key, option, words):
    of_file = refused(values, "the recipe r.yaml")
    assert isinstance(of_file, InRecipe) and str(of_file).startswith(f"the recipe r.yaml: {key}: ")
    assert explained(of_file) == str(of_file)
    of_options = explained(refused(values))
    assert of_options.startswith(f"{option}: ") and of_options.endswith(words)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"target.speedup": 2, "target.density": 0.1},
            "--density and --speedup exclude each other: ask for one of them",
        ),
        (
            {"training.steps": 5, "training.epochs": 1},
            "--steps and --epochs are the length of the run: set one of them",
        ),
        (
            {"target.layers": 3},
            "--layers needs layer and finer units among --units, which are ffn, qk, vo: name them, ",
        ),
        (
            {"vocabulary.min_count": 2},
            "--vocabulary-texts and --min-count say which pieces are kept, and --vocabulary is ",
        ),
        (
            {"method.begin": 0.9},
            "method.begin 0.9 must be smaller than method.end 0.15: pruning needs a part of the run",
        ),
    ],
)
def test_a_rule_names_options_where_there_are_some(values, sentence):
    assert explained(refused(values)).startswith(sentence)


def test_words_of_data_are_no_keys():
    said = "column 'data.text' of the data is text, and target.layers: auto is named by --labels (data.labels)"
    assert (
        explained(UserError(said)) == "column 'data.text' of the data is text, and --layers auto is named by --labels"
    )


def test_a_key_without_an_option_is_set_by_the_one_that_sets_any():
    said = "training.select needs evaluations: set training.evaluations, or set training.select: 0"
    rewritten = "training.select needs evaluations: set training.evaluations, or give --set training.select=0"
    assert explained(UserError(said)) == rewritten


def test_an_option_over_a_recipe_file_is_named_as_an_option(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ntraining: {steps: 10}\n")
    with pytest.raises(UserError) as refusal:
        recipe.read(tmp_path / "r.yaml", {"training.batch_size": 0})
    assert explained(refusal.value) == "--batch-size: expected a number above 0, not 0"


@pytest.mark.parametrize("value", ["5%", "0.05", 0.05, ["5%"]])
def test_percent_is_a_density_in_recipes_and_options(value):
    assert recipe.make(LEAST | {"target.density": value}).target.densities == (0.05,)


def test_percent_in_the_other_fractions():
    made = recipe.make(LEAST | {"target.density": ["20%", 0.4, "1%"]})
    assert made.target.density == (0.4, 0.2, 0.01)
    assert recipe.make(LEAST | {"target.density": "40%", "target.toward": "5%"}).target.toward == 0.05
    assert recipe.make(LEAST | {"target.density": None, "target.keep_score": "97%"}).target.keep_score == 0.97
    assert recipe.make(LEAST | {"target.density": None, "target.speedup": "2x"}).target.speedup == 2
