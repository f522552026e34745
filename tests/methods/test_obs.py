"""OBS beside brute force: every order of removals by a least-squares solution of what is left."""

import pytest
import torch
from tiny_models import inputs, tiny

from secateur.budget.space import Space
from secateur.methods import obs
from secateur.methods.obs import COLLECTED, Obs, independent_losses, removal_losses
from secateur.surgery.compensation import compensate
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

RIDGE = 0.01


def error(weight, moments, kept):
    """The squared error of the best weight of the inputs that are kept, by the normal equations."""
    left = torch.zeros_like(weight)
    if kept:
        left[:, kept] = torch.linalg.solve(moments[kept][:, kept], moments[kept] @ weight.T).T
    lost = weight - left
    return float((lost @ moments * lost).sum())


def by_brute_force(weight, moments, width):
    """Growth at each removal, always of the cheapest unit, never below that of the one before."""
    units = list(range(weight.shape[1] // width))
    losses, before, most = torch.zeros(len(units)).double(), 0.0, 0.0
    while units:
        errors = {}
        for unit in units:
            kept = [other * width + part for other in units if other != unit for part in range(width)]
            errors[unit] = error(weight, moments, kept)
        cheapest = min(errors, key=errors.get)
        most = max(most, errors[cheapest] - before)
        losses[cheapest], before = most, errors[cheapest]
        units.remove(cheapest)
    return losses


@pytest.mark.parametrize(("width", "units"), [(1, 9), (1, COLLECTED + 8), (3, 5)])
def test_losses_are_those_of_brute_force(width, units):
    into = width * units
    tokens = torch.randn(4 * into, into).double() @ torch.randn(into, into).double()
    weight, moments = torch.randn(6, into).double(), tokens.T @ tokens / len(tokens)
    damped = moments + RIDGE * moments.diagonal().mean() * torch.eye(into).double()
    found = removal_losses(weight, moments, width, RIDGE)
    assert torch.allclose(found, by_brute_force(weight, damped, width), rtol=1e-6)


@pytest.mark.parametrize(("width", "units"), [(1, COLLECTED + 8), (3, 5)])
def test_losses_of_independent_inputs_are_those_of_the_elimination(width, units):
    weight = torch.randn(6, width * units).double()
    eliminated = removal_losses(weight, torch.eye(width * units).double(), width, RIDGE)
    torch.testing.assert_close(independent_losses(weight, width, RIDGE), eliminated, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_nothing_is_eliminated_before_inputs_were_read(kind, monkeypatch):
    """It takes minutes for a model of the usual size, and the first calibration does it again."""
    space = Space(tiny(kind), "head", "ffn", "hidden", "sublayer", "qk")
    calibrated = Obs(space)
    paths = {row.path: space.model.get_parameter(f"{row.path}.weight") for row in space.table.readers.values()}
    by_elimination = calibrated._importance({path: torch.eye(own.shape[1]).double() for path, own in paths.items()})
    monkeypatch.setattr(obs, "removal_losses", lambda *_: pytest.fail("of the identity"))
    torch.testing.assert_close(Obs(space).importance, by_elimination, rtol=1e-6, atol=0)


def with_a_twin(model):
    """The model, whose neuron 7 of layer 1 computes what its neuron 3 computes."""
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        for parameter in layer.intermediate.dense.parameters():
            parameter[7] = parameter[3]
    return model


def test_a_neuron_that_another_can_replace_goes_first_and_is_replaced():
    model = with_a_twin(tiny("bert"))
    batches = [inputs(model, seed=seed) for seed in range(30)]
    space = Space(model, "ffn")
    method = Obs(space, ridge=1e-6)
    before = method.importance.clone()
    method.calibrate(batches)
    first = int(method.importance.argmin()) - space.slices["1.ffn"].start
    assert first in (3, 7) and not torch.equal(before, method.importance)
    plan = method.plan(density=1 - 0.99 * float(space.unit_cost()[0]) / space.total())
    small = cut(model, plan)
    assert int((~plan.kept).sum()) == 1
    assert not torch.allclose(small(**batches[0]).logits, model(**batches[0]).logits)
    compensate(small, model, plan, batches, ridge=1e-12)
    assert torch.allclose(small(**batches[0]).logits, model(**batches[0]).logits, atol=1e-6)


def test_before_any_inputs_are_read_they_count_as_independent():
    """Then the loss of a neuron is the squared norm of the weights that read it, whichever others are gone."""
    space = Space(tiny("bert"), "ffn")
    weight = space.model.bert.encoder.layer[0].output.dense.weight.detach()
    squares = weight.square().sum(0)
    order = Obs(space).importance[space.slices["0.ffn"]].argsort()
    assert torch.equal(order, squares.argsort())


def test_units_that_no_linear_reads_are_ranked_by_the_variance_that_goes_with_them():
    model = tiny("bert")
    space = Space(model, "qk", "hidden", "sublayer", "layer", "ffn/8x4")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[5] = 0.0
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight[11] = layer.attention.output.dense.weight[11] = 0.0
    method = Obs(space)
    method.calibrate([inputs(model)])
    parts = {name: method.importance[rows] for name, rows in space.slices.items()}
    assert int(parts["0.qk"].argmin()) == 5 and int(parts["hidden"].argmin()) == 11
    assert float(parts["1.layer"]) == pytest.approx(float(parts["1.attention"] + parts["1.mlp"]))
    assert float(parts["0.qk"].sum()) == pytest.approx(float(parts["0.attention"]))
    tiles = sum(float(own.sum()) for name, own in parts.items() if name.startswith("0.ffn"))
    assert tiles == pytest.approx(2 * float(parts["0.mlp"]))  # of both weights
    assert float(parts["hidden"].sum()) == pytest.approx(float(parts["0.layer"] + parts["1.layer"]))
    assert all(bool((part >= 0).all()) for part in parts.values())


@pytest.mark.parametrize("calibrated", [True, False])
def test_units_whose_weights_are_all_zero_have_no_importance(calibrated):
    """Heads that another tool has masked, and a weight that was pruned to zero: nothing changes without them."""
    model = tiny("bert")
    layers = model.bert.encoder.layer
    with torch.no_grad():
        layers[0].attention.self.query.weight.zero_()
        layers[1].attention.self.key.weight.zero_()
        layers[0].intermediate.dense.weight.zero_()
        layers[0].output.dense.weight.zero_()
        layers[1].output.dense.weight.zero_()
    method = Obs(Space(model, "qk", "ffn/8x4"))
    if calibrated:
        method.calibrate([inputs(model)])
    parts = {name: method.scores()[rows] for name, rows in method.space.slices.items()}
    assert bool(method.scores().isfinite().all())
    assert not torch.cat([own for name, own in parts.items() if name.startswith(("0.", "1.qk"))]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_far_from_0_are_ranked(dtype):
    """Values with a bias of 30, beside which they vary little: their covariance has no eigenvalue below 0."""
    model = tiny("bert", dtype=dtype)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.value.bias.fill_(30.0)
    method = Obs(Space(model, "vo"), ridge=1e-6)
    method.calibrate([inputs(model, seed=seed) for seed in range(20)])
    assert bool(method.scores().isfinite().all()) and bool((method.scores() > 0).any())


def test_a_ridge_of_zero_is_refused():
    with pytest.raises(UserError, match=r"ridge is 0\.0: expected a number above 0"):
        Obs(Space(tiny("bert"), "ffn"), ridge=0.0)


def test_no_batches_are_refused():
    """Without covariances it would rank units by their weights alone."""
    with pytest.raises(UserError, match="expected batches of inputs to calibrate Obs on, got none"):
        Obs(Space(tiny("bert"), "ffn")).calibrate([])
