"""Numbers and truth values among options: each is checked by the constructor, for its type and for its range."""

import inspect
import math
import re

import pytest
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.options import number, pair
from secateur.methods.rounds import CoarseRound
from secateur.system.errors import UserError

CHECKED = {
    "cofi": {"learning_rate": [0.0, -1.0], "tolerance": [-0.5], "evidence": [-1.0], "seed": [-1, 0.5, 2**32]},
    "fisher": {},
    "grain": {"beta": [1.0, 1.5, -0.5], "alpha": [-0.3], "every": [0, 1.5]},
    "magnitude": {},
    "michel": {"step": [0, 1.5]},
    "movement": {
        "learning_rate": [0.0, -1.0],
        "strength": [-10.0],
        "minimum": [-0.1, 5.0],
        "every": [0],
        "weights": [{"ffn": -1.0}, {"ffn": math.nan}, {"ffn": "x"}, 3],
        "threshold": [("a", "b"), (0.0, math.nan), "01", 0.1],
    },
    "obs": {"ridge": [0.0, -1.0]},
    "random": {"seed": [-1, 0.5]},
    "subset": {
        "learning_rate": [0.0],
        "clip": [-1.0],
        "temperature": [("a", "b"), (math.inf, 1.0), "10"],
        "seed": [-1, 0.5],
    },
    "voita": {"learning_rate": [0.0], "strength": [0.0, -1.0], "rate": [0.0], "seed": [-1, 0.5]},
}
NEVER = [math.nan, math.inf, "0,99", "x", [1.0]]
"""What no number is."""
ELSEWHERE = {"tile", "settle", "shape"}
"""Options with numbers whose tests are with those of the units of a variant, of gates that settle and of a shape."""
CASES = [
    pytest.param(name, option, value, id=f"{name}-{option}-{value}")
    for name, options in CHECKED.items()
    for option, values in options.items()
    for value in [*values, *NEVER]
]


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"), "head", "ffn")


@pytest.mark.parametrize(("name", "option", "value"), CASES)
def test_what_is_no_number_in_its_range_is_refused_in_one_sentence(space, name, option, value):
    faithful = {"faithful": True} if option in ("minimum", "threshold") else {}
    with pytest.raises(UserError, match=rf"\b({option}|weight)\b.*expected") as refusal:
        METHODS.get(name)(space, 0.9, **{option: value}, **faithful)
    assert "\n" not in str(refusal.value)


def takes_numbers(parameter):
    return any(kind in str(parameter.annotation) for kind in ("int", "float"))


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_the_options_with_numbers_of_every_method_are_among_the_cases(name):
    parameters = inspect.signature(METHODS.get(name).__init__).parameters.values()
    own = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY and takes_numbers(one)}
    assert own - ELSEWHERE == set(CHECKED[name])


def truth_values(name):
    parameters = inspect.signature(METHODS.get(name).__init__).parameters.values()
    return [one.name for one in parameters if "bool" in str(one.annotation)]


@pytest.mark.parametrize(("name", "option"), [(name, own) for name in sorted(CHECKED) for own in truth_values(name)])
@pytest.mark.parametrize("value", ["false", 1, [True]])
def test_what_is_neither_true_nor_false_is_refused(space, name, option, value):
    with pytest.raises(UserError, match=rf"{option} is {re.escape(repr(value))}: expected true or false"):
        METHODS.get(name)(space, 0.9, **{option: value})


def test_the_methods_have_these_truth_values():
    assert {name: own for name in CHECKED if (own := truth_values(name))} == {
        "cofi": ["faithful"],
        "grain": ["separate", "faithful"],
        "michel": ["exact", "normalise", "signed", "faithful"],
        "movement": ["faithful"],
        "subset": ["decay", "straight_through", "faithful"],
        "voita": ["decay", "faithful"],
    }


def test_whether_a_round_is_spread_is_true_or_false():
    layers = Space(tiny("bert"), "layer", "ffn")
    with pytest.raises(UserError, match="spread in a round is 'no': expected true or false"):
        METHODS.get("magnitude")(layers, 0.9, rounds=[CoarseRound("layer", 1, 0.0, 0.1, spread="no")])


def test_the_range_is_in_the_sentence():
    assert number("a", 1, least=0, most=1) == 1.0
    for limits, expected in [
        ({"above": 0}, "a is 7: expected a number above 0 and below 7:"),
        ({"least": 0.5}, "a is 7: expected a number from 0.5 on and below 7:"),
        ({"most": 2}, "a is 7: expected a number up to 2 and below 7:"),
    ]:
        with pytest.raises(UserError, match=expected):
            number("a", 7, below=7, **limits)
    with pytest.raises(UserError, match="a is True: expected a number that is finite"):
        number("a", True)
    assert pair("a", [1, 0.5]) == (1.0, 0.5)


@pytest.mark.parametrize("shape", [{}, 3, "ffn"])
def test_a_shape_without_kinds_is_refused(space, shape):
    with pytest.raises(UserError, match=r"shape is .*: expected the number of units of some kinds"):
        METHODS.get("cofi")(space, 0.9, shape=shape)
