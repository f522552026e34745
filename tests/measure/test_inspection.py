"""What a model consists of: every number is compared with models that are really cut."""

import pytest
from tiny_models import CLASSIFIERS, edge_cases, tiny

from secateur.budget.space import Space
from secateur.measure.inspected_model import Count
from secateur.measure.inspection import inspect
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut

FINE = ("ffn", "qk", "vo", "sublayer")


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_the_saving_of_a_group_is_what_cutting_it_removes(model):
    dense = tiny(model[0], shape=model[2])
    space = Space(dense, *FINE)
    inspection = inspect(dense, tokens=16)
    savings = {saving.group: saving for saving in inspection.savings}
    assert set(savings) == {group.name for group in space.groups}
    for name, saving in savings.items():
        left = inspect(cut_without(dense, space, space.ones(), name), tokens=16)
        assert saving.parameters == removed(inspection, left) > 0
        assert saving.parameters_share == saving.parameters / inspection.parameters["prunable"].total
        assert saving.flops == pytest.approx(inspection.flops.kept - left.flops.kept)
        assert saving.flops_share == saving.flops / inspection.flops.kept


def test_the_savings_of_a_compact_model_are_of_what_it_keeps():
    dense, plan, masks = edge_cases("bert")
    space = plan.space(dense)
    inspection = inspect(cut(dense, plan))
    savings = {saving.group: saving for saving in inspection.savings}
    for name in ("0.vo", "3.qk", "1.mlp", "1.attention"):
        saving, left = savings[name], inspect(cut_without(dense, space, masks, name))
        assert saving.parameters == removed(inspection, left)
        assert saving.parameters_share == pytest.approx(saving.parameters / inspection.parameters["prunable"].kept)


def cut_without(dense, space, masks, group):
    """The dense model, cut by the masks and without that group."""
    fewer = masks.clone()
    fewer[space.slices[group]] = 0.0
    return cut(dense, Plan.of(space, fewer))


def removed(before, after):
    """The difference of two inspections, in prunable parameters."""
    return before.parameters["prunable"].kept - after.parameters["prunable"].kept


def test_each_head_has_its_dims_and_each_sublayer_its_state():
    dense, plan, _ = edge_cases("bert")
    layers = inspect(cut(dense, plan)).layers
    assert layers[0].qk[0] == 0 < layers[0].vo[0]  # uniform attention
    states = [(layer.attention, layer.mlp) for layer in layers]
    assert states == [("kept", "kept"), ("gone", "kept"), ("bias", "bias"), ("kept", "gone")]


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_json_has_the_rows_of_the_plan_and_the_heads_one_by_one(name):
    dense, plan, _ = edge_cases("bert") if name == "bert" else dense_t5()
    values = inspect(cut(dense, plan)).to_dict()
    assert values["layers"] == plan.read(plan.space(dense)).summary()
    for row, heads in zip(values["layers"], values["heads"], strict=False):  # the last row is the residual stream's
        assert row["layer"] == heads["layer"] and row["vo"].startswith(f"{sum(heads['vo'])}/")
        assert ("ffn" in row) == ("mlp" in heads)
    assert values["padding"] == values["stored"] - values["zeros"] - values["parameters"]["model"]["kept"]


def dense_t5():
    """An encoder-decoder with half of its neurons; a layer of its decoder has two attentions."""
    dense = tiny("t5")
    space = Space(dense, "ffn")
    masks = space.ones()
    masks[::2] = 0.0
    return dense, Plan.of(space, masks), masks


def test_heads_are_counted_by_their_vo_dims():
    layer = inspect(tiny("bert")).layers[0]
    assert layer.heads == Count(4, 4)
