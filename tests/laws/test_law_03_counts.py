"""Law 3: the parameters counted from a plan are exactly those that the cut model stores, apart from padding.

With tiles they are those that are not 0, and what is stored is what the plan has filled.
"""

import pytest
from kept_pieces import SHARING, every_second
from law_assertions import assert_counted_equals_stored, padding
from tiny_models import (
    IN_UNITS,
    LEADING,
    METHODS,
    READERS,
    UNIT_SETS,
    edge_cases,
    for_every_method,
    random_masks,
    taught,
    tiny,
)

from secateur.budget.space import Space
from secateur.measure.inspection import inspect
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.surgery.vocabulary.rows import cut_rows


@pytest.mark.parametrize(("which", "units"), IN_UNITS)
def test_counted_equals_stored(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    for density, soft in ((0.1, False), (0.5, True)):
        assert_counted_equals_stored(model, Plan.of(space, random_masks(space, density, soft=soft)))


@pytest.mark.parametrize(("which", "units", "name"), for_every_method(LEADING, UNIT_SETS, METHODS))
def test_counted_equals_stored_for_every_method(which, units, name):
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
@pytest.mark.parametrize("which", READERS)
def test_counted_equals_stored_with_thin_embeddings(which, units):
    model = tiny(*which)
    space = Space(model, *units)
    for thin in ({"embedding_rank": 5}, {"embedding_rows": "int8"}, {"embedding_rank": 5, "embedding_rows": "int8"}):
        assert_counted_equals_stored(model, Plan.of(space, random_masks(space), **thin))


@pytest.mark.parametrize("rank", [None, 5])
@pytest.mark.parametrize("which", SHARING)
def test_the_density_of_the_model_is_relative_to_all_its_pieces(which, rank):
    model = tiny(*which)
    space, vocabulary = Space(model, "ffn", "vo", "hidden"), every_second(model)
    masks = random_masks(space)
    plan = Plan.of(space, masks, vocabulary=vocabulary, embedding_rank=rank)
    small = cut(model, plan)
    counted = sum(parameter.numel() for parameter in small.parameters()) - padding(space, small)
    assert abs(plan.achieved["model"] - counted / space.total("model")) <= 1e-12
    narrow = Space(cut_rows(model, vocabulary), *space.units)
    again = Plan.of(narrow, masks, vocabulary=vocabulary, embedding_rank=rank)
    without = Plan.of(narrow, masks, embedding_rank=rank)
    for other in (again, without.with_vocabulary(model, vocabulary), without.with_vocabulary(narrow.model, vocabulary)):
        assert other.achieved == pytest.approx(plan.achieved, rel=1e-12)
    assert small.plan["achieved"] == plan.achieved and small.plan["vocabulary"] == vocabulary.to_dict()


@pytest.mark.parametrize("which", SHARING)
def test_the_density_of_the_model_is_relative_to_whole_word_embeddings(which):
    """Also where the plan is made when they are factorised already, and where a factorised model loses pieces."""
    model = tiny(*which)
    before = sum(parameter.numel() for parameter in model.parameters())
    factorised = factorise(model, 5)
    space, vocabulary = Space(factorised, "ffn", "hidden"), every_second(model)
    plan = Plan.of(space, random_masks(space))
    small = cut(factorised, plan)
    fewer = with_pieces(small, vocabulary)
    at_once = Plan.of(space, plan.masks, vocabulary=vocabulary)
    for achieved, cut_model in ((plan.achieved, small), (small.plan["achieved"], small), (at_once.achieved, fewer)):
        stored = sum(parameter.numel() for parameter in cut_model.parameters())
        assert abs(achieved["model"] - stored / before) <= 1e-12
    assert fewer.plan["achieved"] == pytest.approx(at_once.achieved, rel=1e-12)
    assert inspect(fewer).parameters["model"].total == before
