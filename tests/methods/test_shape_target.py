"""A target shape of the gates: it is learned, kept exactly, and refused where it does not fit the space."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.schedules import linear
from secateur.system.errors import UserError


def test_the_gates_meet_the_target_of_every_kind():
    """The constraint of every kind is met in every layer, and the plan has exactly the shape."""
    space = Space(tiny("bert", num_hidden_layers=3), "layer", "head", "ffn")
    shape = {"layer": 2, "head": 3, "ffn": 20}
    method = Cofi(space, linear(1.0, 0.9, begin=0.0, end=0.4), shape=shape, learning_rate=0.05, seed=0)
    optimizer = torch.optim.AdamW(method.param_groups())
    for step in range(800):
        method.penalty().backward()
        optimizer.step()
        optimizer.zero_grad()
        method.advance((step + 1) / 800)
    assert all(float(gap.detach().abs().max()) < 0.03 for gap in method.gaps())
    kept = {group.name: int(method.plan(0.9).kept[space.slices[group.name]].sum()) for group in space.groups}
    kept_layers = [layer for layer in range(3) if kept[f"{layer}.layer"]]
    assert len(kept_layers) == 2
    assert {kept[f"{layer}.head"] for layer in kept_layers} == {3} and {
        kept[f"{layer}.ffn"] for layer in kept_layers
    } == {20}


@pytest.mark.parametrize(
    ("shape", "density", "message"),
    [
        ({"hidden": 3}, 1.0, "the shape names 'hidden', the space has ffn, head"),
        ({"head": 5}, 1.0, "keeps 5 of 'head': expected a whole number from 1 to 4"),
        ({"ffn": 0}, 1.0, "keeps 0 of 'ffn'"),
        ({"ffn": 2.5}, 1.0, "keeps 2.5 of 'ffn'"),
        ({"head": 4, "ffn": 40}, 0.5, r"keeps a density of 0\.\d+: ask for this much or more, not 0.5"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape, density, message):
    with pytest.raises(UserError, match=message):
        Cofi(Space(tiny("bert"), "ffn", "head"), density, shape=shape)


def test_a_shape_for_layers_of_different_sizes_is_refused():
    with pytest.raises(UserError, match="the shape names 'ffn', whose groups have 40 and 48 units"):
        Cofi(Space(tiny("marian"), "ffn", "head"), shape={"ffn": 20})
