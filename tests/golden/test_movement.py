"""Block movement pruning's golden tests: G1 to G8 of the specification, by their numbers (G9, G12: training)."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from secateur.budget.space import Space
from secateur.methods.binarisers import above, sigmoid_above, top_k
from secateur.methods.movement import Movement
from secateur.methods.movement_options import units_of
from secateur.methods.schedules import cubic
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.system.errors import UserError

HYBRID = ("attention/4x8", "ffn")


def shaped(**sizes):
    """A BERT of a real shape without weights."""
    with torch.device("meta"):
        return BertForSequenceClassification(BertConfig(**sizes))


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def spelled_out(model, batch):
    """A loss, `()`, that depends on every logit."""
    return (model(**batch).logits * torch.linspace(-1, 1, 15).view(5, 3)).sum()


def loss_under(model, space, method, batch):
    """The loss of a training forward under the method's masks: `()`."""
    with attached(model, space, method.train().masks):
        return spelled_out(model, batch)


@torch.no_grad()
def bake(model, space, masks):
    """The model with the masks of its tiles, and of FFN neurons, multiplied into the weights."""
    for parameter in space.table.parameters:
        if (tiles := space.at_parameter(masks.double(), parameter)) is not None:
            model.get_parameter(parameter.name).mul_(tiles)
    for layer in space.table.layers if "ffn" in space.units else ():
        neurons = masks[space.slices[f"{layer}.ffn"]].double()
        model.get_parameter(f"bert.encoder.layer.{layer}.output.dense.weight").mul_(neurons)
    return model


def random_scores(method, seed=0, spread=1.0):
    with torch.no_grad():
        method.movement.normal_(0.0, spread, generator=torch.Generator().manual_seed(seed))


def by_group(space, values):
    return {name: values[rows] for name, rows in space.slices.items()}


# G1: the movement score


@pytest.mark.parametrize("binariser", ["topk", "threshold", "sigmoid"])
@pytest.mark.parametrize(
    "units", [("attention/4x8",), ("ffn/8x4",), ("attention/1x1",), ("attention/head", "ffn/tied")]
)
def test_g1_a_scores_gradient_is_the_sum_of_weight_times_gradient(bert, batch, binariser, units):
    """`dL/dS = sum W dL/dW'` over the tile, of pruned tiles too; `W' = M W` is what the forward reads."""
    model = bert().double()
    space = Space(model, *units)
    method = Movement(space, binariser=binariser, threshold=(0.0, 0.5), faithful=True).double()
    random_scores(method)
    method.advance(1.0)
    assert 0 < int(method.open.sum()) < len(space)
    loss_under(model, space, method, batch).backward()
    baked = bake(bert().double(), space, method.eval().masks())
    spelled_out(baked, batch).backward()
    found, wanted = by_group(space, method.movement.grad), dict.fromkeys(space.slices, 0.0)
    for name, (group, grid) in space.tiled.items():
        wanted[group.name] = wanted[group.name] + grid.sums(
            baked.get_parameter(name).grad * model.get_parameter(name).detach()
        )
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


def test_g1_one_step_of_sgd_moves_a_score_by_that(bert, batch):
    model = bert().double()
    space = Space(model, *HYBRID)
    method = Movement(space).double()
    loss_under(model, space, method, batch).backward()
    before, moved = method.movement.detach().clone(), method.movement.grad
    torch.optim.SGD(method.param_groups(), lr=1.0).step()  # the group's own rate: 0.01
    assert torch.equal(method.movement.detach(), before - 0.01 * moved)
    assert bool((moved != 0).all())


# G2: a pruned block hears, its weights do not, and it comes back


@pytest.mark.parametrize("units", [("attention/4x8", "ffn/8x4"), ("attention/4x8", "ffn")], ids="-".join)
def test_g2_a_pruned_block_returns_with_its_weights(bert, batch, units):
    model = bert().double()
    space = Space(model, *units)
    method = Movement(space, faithful=True).double()
    tile = space.slices["0.attention.value/4x8"].start
    with torch.no_grad():
        method.movement[tile] = -3.0
    method.advance(1.0)
    assert int((~method.open).sum()) == 1
    weight = model.bert.encoder.layer[0].attention.self.value.weight
    stored = weight.detach().clone()
    loss_under(model, space, method, batch).backward()
    assert bool((weight.grad[:4, :8] == 0).all()) and bool((weight.grad[:4, 8:] != 0).all())
    assert abs(float(method.movement.grad[tile])) > 1e-6
    with torch.no_grad():
        method.movement[tile] = 0.0
    method.advance(1.0)
    assert bool(method.open.all())
    assert torch.equal(weight.detach(), stored)
    with attached(model, space, method.eval().masks):
        masked = logits(model, batch)
    torch.testing.assert_close(masked, logits(model, batch), rtol=0, atol=1e-12)


def test_g2_a_pruned_neuron_has_a_gradient_with_a_mask_at_its_activation_only(bert, batch):
    """The published masks at both weights (`1d_alt`) leave a pruned neuron no gradient but that of the penalty."""
    model = bert().double()
    heard = {}
    for units in ("ffn", "ffn/tied"):
        space = Space(model, units)
        method = Movement(space, faithful=True).double()
        with torch.no_grad():
            method.movement[5] = -3.0
        method.advance(1.0)
        loss_under(model, space, method, batch).backward()
        heard[units] = abs(float(method.movement.grad[5]))
    assert heard["ffn"] > 1e-6 and heard["ffn/tied"] == 0.0


# G3, G4: binarisers

SCORES = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_g3_top_k_keeps_its_fraction_exactly_in_any_layout():
    assert top_k(SCORES, 0.5).int().tolist() == [[0, 0, 0], [1, 1, 1]]
    assert top_k(SCORES.t(), 0.5).int().tolist() == [[0, 1], [0, 1], [0, 1]]
    noise = torch.Generator().manual_seed(0)
    for fraction in (0.0, 0.13, 0.5, 0.99, 1.0):
        scores = torch.randint(0, 5, (7, 11), generator=noise).float()  # with ties
        for layout in (scores, scores.t()):
            kept = top_k(layout, fraction)
            assert int(kept.sum()) == int(fraction * 77)
            if 0 < int(kept.sum()) < 77:
                assert layout[kept].min() >= layout[~kept].max()


def test_g4_the_sigmoid_threshold_is_strict():
    scores = torch.tensor([-2.1972, -2.1973, 5.0, -80.0])
    assert sigmoid_above(scores, 0.1).tolist() == [True, False, True, False]
    assert bool(sigmoid_above(scores, 0.0).all())
    assert above(torch.tensor([0.5, 0.5001]), 0.5).tolist() == [False, True]


def test_g4_the_minimum_fraction_is_kept_with_and_without_ties():
    dead = torch.arange(-30.0, -14.0)
    assert sigmoid_above(dead, 0.1, 0.25).nonzero().flatten().tolist() == [11, 12, 13, 14, 15]
    assert int(sigmoid_above(torch.full((16,), -9.0), 0.1, 0.25).sum()) == 5  # the published code keeps none
    assert int(sigmoid_above(torch.zeros(16), 0.1, 0.25).sum()) == 16
    assert int(above(dead, 0.0, 0.25).sum()) == 5
    assert int(above(torch.arange(-49.0, 0.0), 0.0, 0.001).sum()) == 1


# G5: the ramp

TOTAL, WARMUP = 110_660, 5_400  # SQuAD; a = 1, b = 10


def published(step, start=0.0, stop=0.1, a=1, b=10):
    """Threshold at a step, as the specification's section 4 spells it out."""
    if step <= a * WARMUP:
        left = 1.0
    elif step > TOTAL - b * WARMUP:
        left = 0.0
    else:
        left = 1.0 - (step - a * WARMUP) / (TOTAL - (a + b) * WARMUP)
    return stop + (start - stop) * left**3


@pytest.fixture(scope="module")
def ramped():
    space = Space(shaped(num_hidden_layers=1), "ffn")
    schedule = cubic(1.0, 1.0, begin=WARMUP / TOTAL, end=(TOTAL - 10 * WARMUP) / TOTAL)
    space.model = nn.Linear(1, 1)  # scores on the CPU
    space.model.device = torch.device("cpu")
    return Movement(space, schedule, faithful=True, strength=20.0)


def test_g5_threshold_and_penalty_ramp_together(ramped):
    thresholds, penalties = [], []
    for step in [*range(0, TOTAL, 2_000), 5_400, 31_030, 56_660, 56_661, TOTAL]:
        ramped.progress = step / TOTAL
        thresholds.append(ramped.threshold(ramped.progress))
        penalties.append(ramped.penalty().item())
        assert thresholds[-1] == pytest.approx(published(step), abs=1e-9)
        assert penalties[-1] == pytest.approx(10 * 20.0 * published(step) * 0.5, rel=1e-5, abs=1e-6)
    assert thresholds[-5] == 0.0 and thresholds[-2] == pytest.approx(0.1)
    assert thresholds[-4] == pytest.approx(0.0875, abs=1e-6)
    for values in (thresholds[:-5], penalties[:-5]):
        assert values == sorted(values)


def test_g5_the_penalty_of_top_k_starts_at_its_double():
    space = Space(BertForSequenceClassification(BertConfig(num_hidden_layers=1, hidden_size=24)), "ffn")
    method = Movement(space, cubic(1.0, 1.0, begin=0.2, end=0.8), binariser="topk", faithful=True, strength=3.0)
    assert method.penalty().item() == pytest.approx(2 * 3.0 * 0.5)
    method.advance(0.9)
    assert method.penalty().item() == pytest.approx(3.0 * 0.5)
    assert int(method.open.sum()) == len(space) // 2


# G6: the penalty


@pytest.mark.parametrize(("regulariser", "value"), [("l1", 0.5), ("l0", 0.83182)])
@pytest.mark.parametrize("units", [("ffn",), HYBRID, ("attention/4x8", "ffn/8x4", "head")], ids="-".join)
def test_g6_the_penalty_of_zero_scores_is_half_the_strength(bert, units, regulariser, value):
    options = {"strength": 7.0, "regulariser": regulariser}
    for faithful in (True, False):
        method = Movement(Space(bert(), *units), cubic(1.0, 1.0, end=0.5), faithful=faithful, **options)
        method.advance(1.0)
        assert method.penalty().item() == pytest.approx(7.0 * value, rel=1e-4)
        assert float(method.penalty_weights.sum()) == pytest.approx(1.0, rel=1e-5)


def test_g6_every_score_tensor_has_the_same_published_weight(bert):
    """Gradient of one score: `strength weight / (units x tensors x units) sig (1 - sig)`."""
    space = Space(bert(), *HYBRID)
    options = {"strength": 7.0, "weights": {"ffn": 0.25}, "faithful": True}
    method = Movement(space, cubic(1.0, 1.0, end=0.5), **options)
    method.advance(1.0)
    random_scores(method)
    method.penalty().backward()
    slope = torch.sigmoid(method.movement.detach()) * (1 - torch.sigmoid(method.movement.detach()))
    for group in space.groups:
        rows = space.slices[group.name]
        tensors, weight = (8, 1.0) if group.grids else (2, 0.25)
        expected = 7.0 * weight / (2 * tensors * group.size) * slope[rows]
        torch.testing.assert_close(method.movement.grad[rows], expected, rtol=1e-5, atol=1e-9)


def test_g6_every_score_is_weighted_by_its_parameters_by_default(bert):
    """The penalty is then linear in the parameters: the sum of `sig x parameters` over all parameters."""
    space = Space(bert(), *HYBRID)
    method = Movement(space, cubic(1.0, 1.0, end=0.5), strength=7.0)
    method.advance(1.0)
    random_scores(method)
    cost = torch.tensor(
        [32.0 if "/" in group.name else 2 * 32 + 1 for group in space.groups for _ in range(group.size)]
    )
    wanted = 7.0 * (torch.sigmoid(method.movement.detach()) * cost).sum() / cost.sum()
    assert method.penalty().item() == pytest.approx(float(wanted), rel=1e-5)


# G7: how many weights and scores


@pytest.mark.parametrize(
    ("sizes", "weights", "tensors"),
    [
        ({}, 72, (48, 12)),
        (
            {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
            144,
            (96, 24),
        ),
    ],
    ids=["base", "large"],
)
def test_g7_weights_and_score_tensors_of_hybrid(sizes, weights, tensors):
    space = Space(shaped(**sizes), *units_of("hybrid", faithful=True))
    counts = [sum(group.kind == name for group in space.groups) for name in space.units]
    assert (len(space.tiled), tuple(counts)) == (weights, tensors)
    if not sizes:
        assert {group.size for group in space.groups} == {24 * 24, 3072}


def test_g7_struct_has_a_score_for_each_heads_part_of_each_weight():
    space = Space(shaped(), *units_of("struct"))
    assert {group.size for group in space.groups if group.grids} == {12}
    grid = {name: own for name, (_, own) in space.tiled.items()}
    start = "bert.encoder.layer.0.attention."
    assert (grid[start + "self.query.weight"].rows, grid[start + "self.query.weight"].columns) == (64, 768)
    assert (grid[start + "output.dense.weight"].rows, grid[start + "output.dense.weight"].columns) == (768, 64)


def test_g7_the_variants_are_these_units():
    assert units_of("block", 16) == ("attention/16x16", "ffn/16x16")
    assert units_of("unstructured") == ("attention/1x1", "ffn/1x1")
    assert units_of("filled", 64) == units_of("hybrid", 64) == ("attention/64x64", "ffn")
    with pytest.raises(UserError, match="variant 'blok' is not known: choose from unstructured, block"):
        units_of("blok")


# G8: what is cut is what was masked, and a head is dead only where it says nothing


def dead_tiles(space, *groups):
    """`(N,)`: all kept but the tiles of the second head (dims 8 to 15) in these weights of the first layer."""
    masks = space.ones()
    for name in groups:
        group = next(group for group in space.groups if group.name == f"0.attention.{name}/4x8")
        (grid,) = group.grids
        own = torch.zeros(grid.parameter.shape)
        (own if grid.inner == 0 else own.t())[8:16] = 1.0
        rows = space.slices[group.name]
        masks[rows] = (grid.sums(own) == 0).float()
    return masks


def error_of_cutting(model, space, masks, batch):
    with attached(model, space, masks.double()):
        reference = logits(model, batch)
    small = cut(model, Plan.of(space, masks))
    return float((logits(small, batch) - reference).abs().max()), small


@pytest.mark.parametrize("empty", ["value", "output", "query", "key"])
def test_g8_a_head_without_value_or_output_is_removed_and_one_without_query_or_key_is_kept(bert, batch, empty):
    model = bert().double()
    space = Space(model, *HYBRID)
    error, small = error_of_cutting(model, space, dead_tiles(space, empty), batch)
    assert error < 1e-12
    attention = small.config.secateur["attention"]["bert.encoder.layer.0.attention.self"]
    gone = empty in ("value", "output")
    assert len(attention["vo"]) == (3 if gone else 4)
    assert attention["qk"] == ([8] * 3 if gone else [8, 0, 8, 8])


@pytest.mark.parametrize("empty", ["query", "key"])
def test_g8_the_published_rule_for_heads_changes_the_model(bert, batch, empty):
    """Defect D1: a head without query or key outputs the mean of its values; removing it is an error."""
    model = bert().double()
    space = Space(model, *HYBRID)
    with attached(model, space, dead_tiles(space, empty).double()):
        reference = logits(model, batch)
    heads = Space(model, "head")
    without = heads.ones()
    without[heads.slices["0.head"].start + 1] = 0.0
    small = cut(model, Plan.of(heads, without))
    assert float((logits(small, batch) - reference).abs().max()) > 1e-2


@pytest.mark.parametrize("units", [HYBRID, ("attention/head", "ffn/tied"), ("attention/4x8", "ffn/8x4")], ids="-".join)
def test_g8_masked_equals_multiplied_into_the_weights_equals_compact(bert, batch, units):
    model = bert().double()
    space = Space(model, *units)
    masks = (torch.rand(len(space), generator=torch.Generator().manual_seed(0)) < 0.4).float()
    with attached(model, space, masks.double()):
        masked = logits(model, batch)
    baked = bake(bert().double(), space, masks)
    torch.testing.assert_close(logits(baked, batch), masked, rtol=0, atol=1e-10)
    error, small = error_of_cutting(model, space, masks, batch)
    assert error < 1e-10
    assert small.num_parameters() < model.num_parameters()


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_g8_a_neuron_without_input_or_output_weights_is_removed_with_its_bias(bert, batch, act):
    model = bert().double()
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = {"gelu": nn.GELU(), "relu": nn.ReLU()}[act]
    space = Space(model, "ffn/8x4")
    masks = space.ones()
    for name, neurons in (("0.ffn.up/8x4", slice(0, 8)), ("0.ffn.down/8x4", slice(40, 48))):
        (grid,) = next(group for group in space.groups if group.name == name).grids
        own = torch.zeros(grid.parameter.shape)
        (own if grid.inner == 0 else own.t())[neurons] = 1.0
        masks[space.slices[name]] = (grid.sums(own) == 0).float()
    error, small = error_of_cutting(model, space, masks, batch)
    assert error < 1e-12
    assert small.bert.encoder.layer[0].intermediate.dense.out_features == 32


# The controller, and the published way


def test_the_controller_reaches_the_density_by_its_own_threshold(bert):
    space = Space(bert(), *HYBRID)
    method = Movement(space, cubic(1.0, 0.3, begin=0.0, end=0.5), every=1)
    random_scores(method)
    for step in range(1, 11):
        method.advance(step / 10)
        target = method.share_schedule(step / 10)
        assert target - 0.01 < space.density(method.open) <= target
    scores = method.scores()
    assert float(scores[method.open].min()) > float(scores[~method.open].max())
    assert method.log_values()["threshold"] == pytest.approx(float(torch.sigmoid(scores[method.open].min())))
    assert method.reached_target() and torch.equal(method.plan(0.3).kept, space.closure(method.open))


def test_tiles_that_are_dead_because_of_others_still_get_a_gradient(bert, batch):
    """The query's tiles of a dim whose key has none: if both were closed, neither would have a gradient."""
    model = bert().double()
    space = Space(model, "attention/head")
    method = Movement(space, cubic(1.0, 0.99, end=0.5), every=1).double()
    tile = space.slices["0.attention.key/head"].start + 1
    with torch.no_grad():
        method.movement[tile] = -1.0
    method.advance(1.0)
    assert (~method.open).nonzero().flatten().tolist() == [tile]
    assert int((~method.plan(0.99).kept).sum()) == 2
    loss_under(model, space, method, batch).backward()
    assert abs(float(method.movement.grad[tile])) > 1e-6


def test_top_k_under_the_controller_keeps_the_same_share_of_every_group(bert):
    space = Space(bert(), "ffn", "qk", "vo")
    method = Movement(space, binariser="topk")
    with torch.no_grad():
        method.movement.copy_(torch.linspace(-1, 1, len(space)))  # together ranked, whole groups would go
    plan = method.plan(0.5)
    shares = [float(plan.kept[rows].float().mean()) for rows in space.slices.values()]
    assert max(shares) - min(shares) < 0.04 and 0.49 < plan.achieved["prunable"] <= 0.5


def test_the_density_is_a_limit_with_the_published_threshold(bert):
    space = Space(bert(), *HYBRID)
    method = Movement(space, cubic(1.0, 1.0, end=0.5), faithful=True)
    random_scores(method, spread=3.0)
    method.advance(1.0)
    assert torch.equal(method.open, torch.sigmoid(method.movement.detach()) > 0.1)
    plan = method.plan(1.0)
    assert torch.equal(plan.kept, space.closure(method.open))
    assert method.plan(0.2).achieved["prunable"] <= 0.2 < plan.achieved["prunable"]
    assert not bool((method.plan(0.2).kept & ~method.open).any())


def test_the_density_of_the_filled_variant_includes_zeroed_blocks(bert):
    space = Space(bert(), "attention/4x4", "ffn")
    method = Movement(space, variant="filled", tile=4)
    random_scores(method)
    plan = method.plan(0.4)
    assert 0.39 < space.density(space.filled(plan.kept)) <= 0.4
    assert plan.achieved["filled"] == space.density(space.filled(plan.kept)) > plan.achieved["prunable"] + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binariser": "top"}, "binariser 'top' is not known: choose from sigmoid, threshold, topk"),
        ({"regulariser": "l2"}, "regulariser 'l2' is not known"),
        ({"binariser": ["topk"]}, r"binariser \['topk'\] is not known"),
        ({"regulariser": {"l0": 1}}, "regulariser {'l0': 1} is not known"),
        ({"threshold": (0, 0.1)}, "threshold and minimum go with faithful"),
        ({"minimum": 0.1}, "threshold and minimum go with faithful"),
        ({"faithful": True, "binariser": "threshold"}, "has no usual ramp: set threshold"),
        ({"faithful": True, "threshold": (0.1,)}, "is no pair"),
        ({"weights": {"head": 1}}, "weights names 'head', the units are attention/4x8, ffn"),
        ({"every": 0}, "every is 0: expected a whole number of steps"),
        ({"variant": "block", "tile": 8}, "has the units attention/8x8, ffn/8x8, not attention/4x8, ffn"),
    ],
)
def test_options_that_do_not_fit_are_refused(bert, options, message):
    with pytest.raises(UserError, match=message):
        Movement(Space(bert(), *HYBRID), **options)


def test_the_cutoff_of_a_score_is_that_of_the_paper():
    """Section 3: at 0.1 a unit dies when its score is at most ln(1/9)."""
    cutoff = math.log(1 / 9)
    assert sigmoid_above(torch.tensor([cutoff - 1e-5, cutoff + 1e-5]), 0.1).tolist() == [False, True]
