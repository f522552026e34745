"""Numbers and truth values among the arguments of loss terms: each is checked by the constructor."""

import inspect
import math

import pytest

from secateur.system.errors import UserError
from secateur.training import objectives  # noqa: F401 - registers the terms
from secateur.training.objectives import Contrastive, Labels, Logits, Term
from secateur.training.terms import TERMS

NEVER = [math.nan, math.inf, -0.5, "0.5", [1.0], None, True]
"""What is no weight, no temperature and no part of a label."""


def arguments(kind):
    """The arguments of every registered term whose annotation names a type, with their terms."""
    named = {name: inspect.signature(term.__init__).parameters.values() for name, term in TERMS.all().items()}
    return [(name, one.name) for name, own in sorted(named.items()) for one in own if str(one.annotation) == kind]


@pytest.mark.parametrize(("name", "argument"), arguments("float"))
@pytest.mark.parametrize("value", NEVER)
def test_what_is_no_number_in_its_range_is_refused_in_one_sentence(name, argument, value):
    with pytest.raises(UserError, match=f"^{argument} is .*: expected a number (from|above) 0") as refusal:
        TERMS.get(name)(**{argument: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "argument"), arguments("bool"))
@pytest.mark.parametrize("value", ["false", 1, None])
def test_what_is_neither_true_nor_false_is_refused(name, argument, value):
    with pytest.raises(UserError, match=f"^{argument} is .*: expected true or false"):
        TERMS.get(name)(**{argument: value})


def test_the_arguments_are_these():
    assert {name for name, argument in arguments("float") if argument == "weight"} == {*TERMS.all()}
    others = {name: argument for name, argument in arguments("float") if argument != "weight"}
    assert others == {
        "contrastive": "temperature",
        "labels": "smoothing",
        "logits": "temperature",
        "similarity": "temperature",
    }
    assert arguments("bool") == [("hidden", "project"), ("logits", "divergence")]


@pytest.mark.parametrize(
    "make", [lambda: Logits(temperature=0), lambda: Labels(smoothing=1), lambda: Contrastive(1, 0)]
)
def test_limits_are_out_of_the_range(make):
    with pytest.raises(UserError, match="expected a number"):
        make()


def test_a_term_of_ones_own_has_a_weight_from_0_on():
    with pytest.raises(UserError, match=r"weight is -1: expected a number from 0 on"):
        Term(-1)
    assert Term(0).weight == 0.0
