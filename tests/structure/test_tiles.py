"""Tiles: which weights a unit covers, what dies with others, and what does not fit."""

import pytest
import torch
from tiny_models import ARCHITECTURES, random_masks, tiny

from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.measure.latency_sweep import measure_latency
from secateur.structure.tiles import EXAMPLES, grids
from secateur.surgery.masking import attached
from secateur.surgery.shrinking import Shrinking
from secateur.system.errors import UserError

HIDDEN, HEAD_DIM, FFN = 32, 8, 48


@pytest.fixture(scope="module")
def model():
    return tiny("bert")


def kept_weights(space, masks):
    """Name -> `(out, into)` bool, each weight by itself: its tile is kept, and both of its indices are there."""
    there = {axis: values > 0 for axis, values in space.effective(masks).items()}
    found = {}
    for name, (group, grid) in space.tiled.items():
        own, across = masks[space.slices[group.name]], grid.parameter.shape[1] // grid.columns
        out, into = grid.parameter.shape
        found[name] = torch.tensor(
            [
                [
                    bool(own[row // grid.rows * across + column // grid.columns] > 0)
                    and bool(there[grid.parameter.axes[0]][row])
                    and bool(there[grid.parameter.axes[1]][column])
                    for column in range(into)
                ]
                for row in range(out)
            ]
        )
    return found


def test_a_group_is_a_weight_and_a_tile_is_inner_by_stream(model):
    space = Space(model, "attention/4x16", "ffn/8x32")
    assert list(space.slices) == [
        f"{layer}.{name}"
        for part, names in (
            ("attention/4x16", ("query", "key", "value", "output")),
            ("ffn/8x32", ("up", "down")),
        )
        for layer in (0, 1)
        for name in [f"{part.split('/')[0]}.{own}/{part.split('/')[1]}" for own in names]
    ]
    shapes = {name.split("layer.0.")[1]: own.shape for name, (_, own) in space.tiled.items() if "layer.0." in name}
    assert shapes["attention.self.query.weight"] == (HIDDEN // 4, HIDDEN // 16)
    assert shapes["attention.output.dense.weight"] == (HIDDEN // 16, HIDDEN // 4)
    assert shapes["intermediate.dense.weight"] == (FFN // 8, 1)
    assert shapes["output.dense.weight"] == (1, FFN // 8)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_architecture_has_every_kind_of_tiles(kind, name):
    name = name.replace("32x32", "8x8")
    space = Space(tiny(kind), name)
    part = name.split("/")[0]
    attentions, networks = (
        (2, 2) if len(space.table.attentions) == 2 else (6, 4)
    )  # a decoder's layer has two attentions
    of_network = 1 + len(space.table.makers(f"{space.table.layers[0]}.ffn"))  # one more where it is gated
    assert len(space.tiled) == (4 * attentions if part == "attention" else of_network * networks)
    assert space.density(space.ones()) == 1.0
    weights = sum(own.parameter.shape[0] * own.parameter.shape[1] for _, own in space.tiled.values())
    assert int(space.unit_cost().sum()) == weights


@pytest.mark.parametrize("units", [("attention/4x8", "ffn"), ("attention/head", "ffn/8x4", "vo"), ("ffn/tied", "qk")])
def test_counts_equal_those_of_single_weights(model, units):
    space = Space(model, *units)
    for seed in range(3):
        masks = random_masks(space, 0.3, seed=seed)
        there = {axis: values > 0 for axis, values in space.effective(masks).items()}
        weights = kept_weights(space, masks)
        counted = 0
        for parameter in space.table.parameters:
            if parameter.inner:
                parts = [there[axis] for axis in parameter.axes]
                plain = parts[0] if len(parts) == 1 else parts[0][:, None] & parts[1]
                counted += int(weights.get(parameter.name, plain).sum())
        assert int(space.parameters(masks)) == counted
        assert int(space.parameters(space.closure(masks > 0))) == counted


def test_an_index_without_a_tile_in_one_weight_loses_its_tiles_in_the_others(model):
    space = Space(model, "ffn/8x16")
    kept = space.ones().bool()
    rows = space.slices["0.ffn.down/8x16"]
    kept[rows] = torch.tensor([column != 2 for _ in range(2) for column in range(FFN // 8)])  # neurons 16 to 23
    closed = space.closure(kept)
    lost = (kept & ~closed).nonzero().flatten() - space.slices["0.ffn.up/8x16"].start
    assert lost.tolist() == [4, 5]  # the third row of two tiles
    assert torch.equal(space.closure(closed), closed)
    assert int(space.lengths(kept.float())["0.ffn"]) == FFN - 8


def test_filled_keeps_all_tiles_in_the_remaining_rows_and_columns(model):
    space = Space(model, "attention/4x8", "ffn/8x4")
    for seed in range(3):
        kept = random_masks(space, 0.3, seed=seed) > 0
        filled = space.filled(kept)
        assert bool((space.closure(kept) <= filled).all()) and torch.equal(space.closure(filled), filled)
        mine, theirs = space.lengths(kept.float()), space.lengths(filled.float())
        assert {axis: float(n) for axis, n in mine.items()} == {axis: float(n) for axis, n in theirs.items()}
        stored = sum(
            float(theirs[grid.parameter.axes[0]] * theirs[grid.parameter.axes[1]]) for _, grid in space.tiled.values()
        )
        biases = sum(float(theirs[p.axes[0]]) for p in space.table.parameters if p.inner and len(p.axes) == 1)
        assert float(space.parameters(filled)) == stored + biases


def test_above_closes_to_what_is_kept(model):
    space = Space(model, "attention/4x8", "ffn/8x4", "hidden")
    for seed in range(5):
        scores = torch.randn(len(space), generator=torch.Generator().manual_seed(seed))
        kept, above = space.choose(scores, 0.3), space.leading(scores, 0.3)
        assert torch.equal(space.closure(above), kept) and bool((kept <= above).all()) and bool((kept != above).any())
        assert space.density(above) == space.density(kept) <= 0.3
        full = Space(model, *space.units, budget=Parameters(count_zeros=True)).choose(scores, 0.3)
        assert space.density(space.filled(full)) <= 0.3 < space.density(space.filled(kept))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (("attention/5x8",), r"tiles of 5 x 8 do not divide \S*query.weight of 32 x 32: choose sizes that do"),
        (("ffn/8x33",), "tiles of 8 x 33 do not divide"),
        (("mlp/8x8",), "mlp/8x8 is not a kind of tiles: expected a name such as attention/32x32"),
        (("ffn/head",), "ffn/head is not a kind of tiles"),
        (("attention/tied",), "is not a kind of tiles"),
        (("attention/8",), "is not a kind of tiles"),
        (("attention/0x8",), "is not a kind of tiles"),
        (("attention/4x8", "attention/8x4"), "attention/4x8 and attention/8x4 tile the same weights"),
        (("ffn/tied", "ffn/8x4"), "ffn/tied and ffn/8x4 tile the same weights"),
        (("attention/4x8", "attention/4x8"), "name some units twice"),
        (("tiles",), "tiles such as attention/32x32"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(model, units, message):
    with pytest.raises(UserError, match=message):
        Space(model, *units)


def test_tiles_are_refused_with_round_to_and_with_a_latency(model):
    with pytest.raises(UserError, match="round_to 8 does not apply to tiles"):
        Space(model, "attention/4x8", "ffn", round_to=8)
    with pytest.raises(UserError, match=r"a latency does not depend on tiles \(attention/4x8, ffn\)"):
        measure_latency(model, "attention/4x8", "ffn")


def test_groups_of_a_kind_cover_each_weight_once(model):
    table = Space(model).table
    names = [grid.parameter.name for own in grids(table, "ffn/tied").values() for grid in own]
    assert len(names) == len(set(names)) == 4


def test_a_shrunk_model_uses_its_masked_weights_in_long_batches_too():
    """Many tokens go through the joined weights of an attention that was cut, unless masks are on them."""
    model, ids = tiny("bert"), torch.randint(5, 50, (8, 40), generator=torch.Generator().manual_seed(0))
    space = Space(model, "attention/4x8")
    masks = random_masks(space, 0.5)
    masks[space.slices["0.attention.value/4x8"]] = torch.tensor([1.0, 0, 1, 1] * 7 + [0.0] * 4)  # four dims go
    with attached(model, space, masks.double()), torch.no_grad():
        wanted = model(ids).logits
    shrinking = Shrinking(model, space)
    shrinking.cut(space.closure(masks > 0))
    with attached(model, space, masks.double()) as attachment, torch.no_grad():
        attachment.detach()
        attachment.attach(shrinking.stored)
        torch.testing.assert_close(model(ids).logits, wanted, rtol=0, atol=1e-10)


def test_a_gated_network_has_three_weights_in_tiles():
    space = Space(tiny("t5", shape=1), "ffn/8x4")
    names = {name.partition("ffn.")[2] for name in space.slices if name.startswith("decoder.1.")}
    assert names == {"gate/8x4", "up/8x4", "down/8x4"}
    tied = Space(tiny("t5", shape=1), "ffn/tied")
    assert [len(group.grids) for group in tied.groups] == [3] * 4
