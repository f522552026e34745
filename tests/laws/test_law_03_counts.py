"""Law 3: the parameters counted from a plan are exactly those that the cut model stores, apart from padding.

With tiles they are those that are not 0, and what is stored is what the plan has filled.
"""

import pytest
from law_assertions import assert_counted_equals_stored
from tiny_models import (
    CLASSIFIERS,
    LEADING,
    METHODS,
    MODELS,
    UNIT_SETS,
    covering,
    edge_cases,
    random_masks,
    taught,
    tiny,
)

from secateur.budget.space import Space
from secateur.structure.plan import Plan


@pytest.mark.parametrize("units", UNIT_SETS, ids="-".join)
@pytest.mark.parametrize("which", MODELS)
def test_counted_equals_stored(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    for density, soft in ((0.1, False), (0.5, True)):
        assert_counted_equals_stored(model, Plan.of(space, random_masks(space, density, soft=soft)))


@pytest.mark.parametrize(("which", "units", "name"), covering(LEADING, UNIT_SETS, METHODS))
def test_counted_equals_stored_for_every_method(which, units, name):
    """Over cases in which any method meets any model and any units, and any units meet any model."""
    model = tiny(*which)
    plan = taught(name, Space(model, *units), density=0.6).plan(density=0.4)
    assert_counted_equals_stored(model, plan)


@pytest.mark.parametrize("hidden", [False, True], ids=["whole-stream", "cut-stream"])
@pytest.mark.parametrize("which", LEADING)
def test_counted_equals_stored_in_every_way_in_which_units_are_dead(which, hidden):
    kind, _, shape = which
    model, plan, _ = edge_cases(kind, shape, hidden=hidden, soft=True)
    assert_counted_equals_stored(model, plan)


@pytest.mark.parametrize("units", [("vo",), ("qk",), ("vo", "sublayer")], ids="-".join)
@pytest.mark.parametrize("which", LEADING)
def test_a_head_without_vo_dims_takes_qk_dims_that_no_group_covers(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    masks = random_masks(space, 0.8)
    masks[: 2 * space.table.head_dim] = 0.0  # two heads of the first layer
    assert_counted_equals_stored(model, Plan.of(space, masks))


@pytest.mark.parametrize("units", [("ffn",), ("hidden",)], ids="-".join)
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_counted_equals_stored_with_factorised_embeddings(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    assert_counted_equals_stored(model, Plan.of(space, random_masks(space), embedding_rank=5))
