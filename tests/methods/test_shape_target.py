"""A target shape of the gates: it is learned, kept exactly, and refused where it does not fit the space."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.cofi import GATE, Cofi
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


@pytest.mark.parametrize("stop", [1.0, 0.9])
def test_the_targets_fall_from_begin_to_end_whatever_the_limit_of_the_density(stop):
    """And evaluations keep as many units, rounded; a plan has the shape throughout."""
    space = Space(tiny("bert", num_hidden_layers=3), "layer", "head", "ffn")
    method = Cofi(space, linear(1.0, stop, begin=0.2, end=0.6), shape={"layer": 2, "head": 3, "ffn": 20}, seed=0).eval()
    kinds, seen = ("layer", "head", "ffn"), {}
    for progress in (0.1, 0.2, 0.3, 0.5, 0.6, 0.9):
        method.advance(progress)
        open_ = float(GATE.open_probability(method.gates().detach()).mean())
        targets = [open_ + float(gap.detach().mean()) for gap in method.gaps()]
        masks = method.masks() > 0
        sums = {
            kind: sum(int(own.sum()) for group, own in space.by_group(masks) if group.kind == kind) for kind in kinds
        }
        seen[progress] = list(sums.values())
        done = min(max((progress - 0.2) / 0.4, 0.0), 1.0)
        expected = [1 - done / 3, 1 - done / 4, 1 - done * (1 - 20 / space.table.sizes["0.ffn"])]
        assert targets == pytest.approx(expected, abs=1e-3)
        kept = method.plan(stop).kept
        assert [int(kept[space.slices[f"{layer}.layer"]]) for layer in range(3)].count(1) == 2
        assert not method.reached and not method.reached_target()
    wide = space.table.sizes["0.ffn"]
    assert seen[0.1] == seen[0.2] == [3, 12, 3 * wide]
    assert seen[0.3] == [3, 12, 3 * round(wide - 0.25 * (wide - 20))]
    assert seen[0.5] == [2, 9, 3 * round(wide - 0.75 * (wide - 20))]
    assert seen[0.6] == seen[0.9] == [2, 9, 60]


def test_a_shape_is_not_reached_before_its_ramp_has_ended():
    """Also where the limit of the density is the same throughout, so that its own ramp has no end."""
    space = Space(tiny("bert"), "ffn")
    method = Cofi(space, linear(1.0, 1.0, begin=0.2, end=0.6), shape={"ffn": 20}, seed=0)
    with torch.no_grad():
        method.log_alpha.fill_(-4.0)
    method.advance(0.4)
    assert not method.reached
    method.advance(0.6)
    assert method.reached and method.reached_target()


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
