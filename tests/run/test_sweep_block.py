"""The block `sweep` of a recipe file: what may vary, over which values, and what is refused before anything starts."""

import pytest
import yaml

from secateur.run import recipe
from secateur.run.sweep.block import MOST, read_sweep, recipes_to_check
from secateur.run.sweep.dimension import Choices, Range
from secateur.system.errors import UserError

LEAST = {"model": "m", "data": {"source": "d", "tuning_rows": 4}}


@pytest.fixture
def written(tmp_path):
    """Write a recipe with a block, and read it."""

    def write(over, overrides=None, values=(), **block):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({**LEAST, **dict(values), "sweep": {"over": over, **block}}))
        return read_sweep(path, overrides or {})

    return write


def test_keys_vary_over_choices_and_ranges(written):
    over = {
        "target": {"units": [["ffn"], ["ffn", "qk"]]},
        "method": ["grain", "magnitude"],
        "training.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "training.batch_size": {"low": 8, "high": 32, "step": 8},
        "method.options.beta": [0.5, 0.9],
    }
    units, method, rate, size, beta = sorted(written(over).dimensions, key=lambda one: list(DIMENSIONS).index(one.key))
    assert units == Choices("target.units", {"ffn": ["ffn"], "ffn+qk": ["ffn", "qk"]})
    assert method.values == {"grain": "grain", "magnitude": "magnitude"}
    assert rate == Range("training.learning_rate", 1e-4, 1e-3, whole=False, log=True) and rate.all is None
    assert size.whole and size.all == [8, 16, 24, 32] and beta.key == "method.options.beta"


DIMENSIONS = ("target.units", "method.name", "training.learning_rate", "training.batch_size", "method.options.beta")


def test_a_number_is_whole_where_its_key_is(written):
    found = {
        one.key: one
        for one in written(
            {
                "training.steps": {"low": 10, "high": 20},
                "distillation.temperature": {"low": 1, "high": 8},
                "method.options.beta": {"low": 0, "high": 1},
                "method.options.every": {"low": 1, "high": 8},
                "method.options.unheard_of": {"low": 1, "high": 8},
            }
        ).dimensions
    }
    assert not found["method.options.beta"].whole, "whole ends do not make an option of a method whole"
    assert found["method.options.every"].whole and found["method.options.unheard_of"].whole
    assert found["training.steps"].whole and not found["distillation.temperature"].whole
    assert found["training.steps"].all == list(range(10, 21)) and found["distillation.temperature"].all is None


def test_a_trial_has_the_recipe_of_its_point(written):
    sweep = written(
        {"target.size": [1000, 2000], "method.options.beta": [0.5], "training.epochs": [2]},
        {"seed": 3},
        {"method": {"name": "grain", "options": {"faithful": True}}, "target": {"density": 0.3}},
    )
    made = sweep.recipe({"target.size": 2000, "method.options.beta": 0.5, "training.epochs": 2})
    assert (made.seed, made.target.size, made.target.density) == (3, 2000, None), "an amount replaces another"
    assert (made.training.epochs, made.training.steps) == (2, None)
    assert made.method.options == {"faithful": True, "beta": 0.5}, "the other entries stay"


def test_a_method_brings_its_defaults_into_its_trials(written):
    sweep = written({"method.name": ["grain", "cofi"]})
    assert [sweep.recipe({"method.name": name}).method.end for name in ("grain", "cofi")] == [
        recipe.make({**LEAST, "method": name}).method.end for name in ("grain", "cofi")
    ]


def test_a_written_sweep_reads_back(written, tmp_path):
    sweep = written({"target.density": {"low": 0.1, "high": 0.5}}, {"target.units": ("ffn",)}, sampler="random")
    (tmp_path / "again.yaml").write_text(sweep.to_yaml())
    again = read_sweep(tmp_path / "again.yaml", {})
    assert again.dimensions == sweep.dimensions and again.block == sweep.block
    point = {"target.density": 0.2}
    assert again.recipe(point) == sweep.recipe(point)


def test_all_combinations_of_ends_are_checked_and_of_too_many_each_value(written):
    few = written({"target.density": {"low": 0.1, "high": 0.5}, "target.units": [["ffn"], ["qk"], ["vo"]]})
    assert len(list(recipes_to_check(few))) == 6
    many = written({key: list(range(1, 15)) for key in ("training.steps", "training.batch_size", "target.keep")})
    points = many.points_to_check()
    assert MOST < len(points) < 14**3
    assert all({point[key] for point in points} == set(range(1, 15)) for key in points[0])


@pytest.mark.parametrize(
    ("over", "block", "words"),
    [
        ({"target.densty": [0.1]}, {}, "unknown key 'target.densty': did you mean 'target.density'"),
        ({"method.option.beta": [0.1]}, {}, "unknown key 'method.option.beta': an entry is that of method.options"),
        ({}, {}, "names no key"),
        ({"seed": [1, 2]}, {}, "seed cannot vary"),
        ({"data.rows": [10, 20]}, {}, "data.rows cannot vary"),
        ({"target.density": 0.1}, {}, "expected a list of values, or a range with low and high, not 0.1"),
        ({"target.density": []}, {}, "has no values"),
        ({"target.density": [0.1, 0.1]}, {}, "has the value 0.1 twice"),
        ({"target.density": {"low": 0.1}}, {}, "high: a value is needed: give low and high"),
        ({"target.density": {"low": "5%", "high": 0.1}}, {}, "low: expected a whole number or a number, not '5%'"),
        ({"target.density": {"low": 0.1, "high": 0.1}}, {}, "low 0.1 must be below high 0.1"),
        ({"target.density": {"low": 0, "high": 1, "log": True}}, {}, "a logarithmic scale has no 0"),
        ({"target.density": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, {}, "log and step exclude"),
        ({"target.density": {"low": 0.1, "high": 0.3, "step": 2}}, {}, "step 2 must be above 0 and at most"),
        ({"target.density": {"low": 0.1, "high": 0.3, "step": 0.21}}, {}, "step 0.21 must be above 0 and at most"),
        ({"training.steps": {"low": 1.5, "high": 3}}, {}, "is a whole number"),
        ({"target.units": {"low": 1, "high": 3}}, {}, "is no number, so that it has no range"),
        ({"target.density": [0.1]}, {"objectives": ["speed"]}, "'speed' is not known: did you mean 'speedup'"),
        ({"target.density": [0.1]}, {"objectives": ["ms", "ms"]}, "names one twice"),
        ({"target.density": [0.1]}, {"objectives": []}, "sweep.objectives: expected at least 1"),
        ({"target.density": [0.1]}, {"sampler": "best"}, "sweep.sampler: expected 'tpe', 'nsga2', 'random' or 'grid'"),
        ({"target.density": [0.1]}, {"early_stopping": True, "objectives": ["score", "mb"]}, "say nothing of several"),
        ({"target.density": {"low": 0.1, "high": 0.2}}, {"sampler": "grid"}, "give target.density a list, or a step"),
        ({"target.density": [0.1]}, {"trails": 3}, "sweep.trails"),
    ],
)
def test_a_block_that_does_not_fit_is_refused_in_one_sentence(written, over, block, words):
    with pytest.raises(UserError) as refused:
        list(recipes_to_check(written(over, **block)))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"target.density": [0.1, 1.5]}, "the trial of target.density 1.5 is not possible: "),
        ({"target.density": [[0.2, 0.1]]}, "a trial has one density"),
        ({"target.density": [0.1], "target.size": [5000]}, "exclude each other"),
        ({"method.begin": [0.0, 0.9], "method.end": [0.5]}, "the trial of method.begin 0.9, method.end 0.5 is not"),
        ({"method.name": ["grain", "cofee"]}, "the trial of method.name cofee is not possible: method 'cofee'"),
    ],
)
def test_a_combination_that_is_not_possible_is_named(written, over, words):
    with pytest.raises(UserError) as refused:
        list(recipes_to_check(written(over)))
    assert words in str(refused.value)


def test_a_file_without_a_block_is_no_sweep_and_one_with_it_no_recipe(written, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(LEAST))
    with pytest.raises(UserError, match="has no block 'sweep': add one"):
        read_sweep(tmp_path / "recipe.yaml", {})
    written({"target.density": [0.1]})
    with pytest.raises(UserError, match="is of a sweep: run it by `secateur sweep`, or take its block 'sweep' out"):
        recipe.read(tmp_path / "sweep.yaml", {})
