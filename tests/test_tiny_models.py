"""The cases of the laws: any method meets any model and any units, and any units meet any model."""

from dataclasses import replace
from itertools import combinations, product

import pytest
from tiny_models import CLASSIFIERS, LEADING, METHODS, MONOTONE, NAMESAKES, UNIT_SETS, covering, meeting_units

from secateur.structure.architectures import ARCHITECTURES


@pytest.mark.parametrize(
    "columns",
    [(LEADING, UNIT_SETS, METHODS), (LEADING, UNIT_SETS, MONOTONE), (CLASSIFIERS, UNIT_SETS, METHODS)],
    ids=["methods", "monotone methods", "classifiers"],
)
def test_any_two_values_meet_in_a_case(columns):
    models, unit_sets, methods = columns
    cases = [case.values for case in covering(*columns)]
    expected = ([which.values[0] for which in models], unit_sets, methods)
    for first, second in combinations(range(3), 2):
        assert {(case[first], case[second]) for case in cases} == {*product(expected[first], expected[second])}
    assert len(cases) == len({*cases}) < len(models) * len(unit_sets) * len(methods)


def test_any_model_and_any_method_meet_any_units():
    cases = [case.values for case in meeting_units(LEADING, UNIT_SETS, METHODS)]
    models = [which.values[0] for which in LEADING]
    assert {(which, units) for which, units, _ in cases} == {*product(models, UNIT_SETS)}
    assert {(units, name) for _, units, name in cases} == {*product(UNIT_SETS, METHODS)}
    assert len(cases) == len({*cases}) == len(UNIT_SETS) * max(len(LEADING), len(METHODS))


@pytest.mark.parametrize(("kind", "other"), NAMESAKES.items())
def test_families_of_which_the_laws_take_one_model_have_the_table_of_another(kind, other):
    """But for the kinds of their layers: windows change masks, which a layer is passed."""
    own = ARCHITECTURES.get(kind)
    stacks = tuple(
        replace(stack, attentions=tuple(replace(each, kinds=None, windows={}) for each in stack.attentions))
        for stack in own.stacks
    )
    assert replace(own, stacks=stacks) == replace(ARCHITECTURES.get(other), model_type=kind)
