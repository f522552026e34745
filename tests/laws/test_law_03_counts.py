"""Law 3: the parameters counted from a plan are exactly those that the cut model stores, apart from padding.

With tiles they are those that are not 0, and what is stored is what the plan has filled.
"""

import pytest
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
from secateur.surgery.cut import cut


def padding(space, small):
    """Stored parameters that are there only to pad the heads of a layer to one width, by the structure."""
    padded = {}
    for attention in space.table.attentions:
        if spec := small.config.secateur["attention"].get(attention.path):
            padded |= {f"{attention.block}.qk": spec["qk"], f"{attention.block}.vo": spec["vo"]}
    stored = dict(small.named_parameters())
    total = 0
    for parameter in space.table.parameters:
        for dim, axis in enumerate(parameter.axes):
            if axis in padded and parameter.name in stored:
                tensor = stored[parameter.name]
                total += (tensor.shape[dim] - sum(padded[axis])) * tensor[:].select(dim, 0).numel()
    return total


def assert_counted_equals_stored(model, plan):
    space, small = plan.space(model), cut(model, plan)
    stored = sum(parameter.numel() for parameter in small.parameters())
    counted = stored - padding(space, small)
    if space.tiled:
        assert space.parameters(space.filled(plan.kept), "model") == counted
        counted = sum(int(parameter.count_nonzero()) for parameter in small.parameters())
    if plan.embedding_rank is None:
        assert space.parameters(plan.kept, "model") == counted
    assert plan.achieved["model"] == pytest.approx(counted / space.total("model"), abs=1e-12)
    assert space.parameters(plan.kept, "layers") <= space.parameters(plan.kept, "model")


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
