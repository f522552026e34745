"""The refit of a Linear that lost inputs, beside a dense least-squares solution in float64."""

import pytest
import torch
from tiny_models import inputs, tiny
from torch import nn

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.compensation import compensate, refit, solved
from secateur.surgery.cut import cut
from secateur.surgery.input_moments import Moments, outputs_at, real_tokens, second_moments
from secateur.surgery.lockstep import in_lockstep
from secateur.system.errors import UserError

TOKENS, INTO, OUT = 300, 12, 5


@pytest.fixture
def tokens():
    """Inputs that go together, far from 0, and what a Linear of more inputs made of them."""
    inputs_ = torch.randn(TOKENS, INTO).double() @ torch.randn(INTO, INTO).double() + 3
    return inputs_, inputs_ @ torch.randn(INTO, OUT).double() + torch.randn(TOKENS, OUT).double() - 2


def moments_of(inputs_, targets):
    moments = Moments.empty(inputs_.shape[1], targets.shape[1])
    for part in range(0, len(inputs_), 100):
        moments.add(inputs_[part : part + 100], targets[part : part + 100])
    return moments


@pytest.mark.parametrize("bias", [True, False])
def test_refit_is_the_least_squares_solution(tokens, bias):
    """Of the rows of the tokens, and of a row for each weight that draws it to what it was."""
    inputs_, targets = tokens[0][:, :7], tokens[1]
    module, ridge = nn.Linear(7, OUT, bias=bias, dtype=torch.double), 0.05
    weight, moments = module.weight.detach().clone(), moments_of(inputs_, targets)
    centred = (inputs_ - inputs_.mean(0), targets - targets.mean(0)) if bias else (inputs_, targets)
    strength = (ridge * TOKENS * (centred[0].square().sum(0) / TOKENS).mean()).sqrt()
    rows = torch.cat([centred[0], strength * torch.eye(7).double()])
    wanted = torch.linalg.lstsq(rows, torch.cat([centred[1], strength * weight.T])).solution.T
    with torch.no_grad():
        refit(module, "one", moments, ridge)
    assert torch.allclose(module.weight, wanted, rtol=1e-9)
    if bias:
        assert torch.allclose(module.bias, targets.mean(0) - wanted @ inputs_.mean(0), rtol=1e-9)


@pytest.mark.parametrize("far", [0, 10, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_covariances_of_inputs_far_from_0_are_those_of_float64(dtype, far):
    """But for the rounding of float32; products of the values as they are would be noise in their own type."""
    values = (torch.randn(TOKENS, INTO) + far).to(dtype)
    xx, yx = moments_of(values, values[:, :OUT]).covariance(centred=True)
    wanted = torch.cov(values.double().T, correction=0)
    assert torch.allclose(xx, wanted, atol=1e-5) and torch.allclose(yx, wanted[:OUT], atol=1e-5)


def test_values_that_are_not_finite_are_refused(tokens):
    inputs_ = tokens[0].clone()
    inputs_[3, 2] = torch.inf
    with pytest.raises(UserError, match="one reads or writes values that are not finite"):
        refit(nn.Linear(INTO, OUT, dtype=torch.double), "one", moments_of(inputs_, tokens[1]))


def test_a_ridge_below_the_rounding_of_a_covariance_is_raised():
    covariance = torch.tensor([[1.0, 1.05], [1.05, 1.0]])  # of float32 that lost its digits: an eigenvalue is -0.05
    found = solved(covariance, torch.ones(1, 2), ridge=0.001)
    assert torch.allclose(found @ (covariance + 0.1 * torch.eye(2)), torch.ones(1, 2))
    assert not bool(solved(torch.full((2, 2), torch.nan), torch.ones(1, 2), 0.1).any())


def test_errors_are_those_of_the_tokens(tokens):
    inputs_, targets = tokens
    module = nn.Linear(INTO, OUT, dtype=torch.double).requires_grad_(False)
    before = (module(inputs_) - targets).square().sum(1).mean() / targets.var(0, correction=0).sum()
    done = refit(module, "one", moments_of(inputs_, targets))
    after = (module(inputs_) - targets).square().sum(1).mean() / targets.var(0, correction=0).sum()
    assert (done.before, done.after) == pytest.approx((float(before), float(after)), rel=1e-9)


def test_a_linear_that_fits_is_left_alone(tokens):
    module = nn.Linear(INTO, OUT, dtype=torch.double)
    weight = module.weight.detach().clone()
    with torch.no_grad():
        refit(module, "one", moments_of(tokens[0], module(tokens[0])))
    assert torch.equal(module.weight, weight)


def test_only_the_bias_of_a_linear_without_inputs_is_refitted(tokens):
    module = nn.Linear(1, OUT, dtype=torch.double)
    module.weight = nn.Parameter(module.weight[:, :0])
    with torch.no_grad():
        refit(module, "one", moments_of(tokens[0][:, :0], tokens[1]))
    assert torch.allclose(module.bias, tokens[1].mean(0))


def test_padding_counts_for_nothing():
    model = tiny("bert")
    batch = inputs(model)
    path = Space(model).table.reader("0.ffn").path
    assert len(outputs_at(model, batch, [path])[path]) == int(batch["attention_mask"].sum())
    assert len(real_tokens(torch.zeros(3, 9, 2), batch, path)) == 27  # no mask has this shape


@pytest.mark.parametrize("width", [7, 10])
@pytest.mark.parametrize("said_by", ["labels", "mask"])
def test_tokens_of_a_decoder_are_those_of_the_target(said_by, width):
    """Also where source and target are padded to one width, and in cross-attention."""
    model = tiny("marian", "MTModel")
    batch = {name: ids for name, ids in inputs(model).items() if not name.startswith("decoder")}
    real = torch.arange(width) < torch.tensor([[6], [2], [5]])
    batch["labels"] = torch.full((3, width), 9).masked_fill(~real, -100)
    if said_by == "mask":
        real[0, 5] = False
        batch["decoder_attention_mask"] = real.long()
    readers = Space(model).table.readers
    moments = second_moments(model, [row.path for row in readers.values()], [batch])
    counts = {axis: moments[row.path].count for axis, row in readers.items()}
    source, target = int(batch["attention_mask"].sum()), int(real.sum())
    assert source != target and "decoder.0.cross.vo" in counts
    assert counts == {axis: target if axis.startswith("decoder") else source for axis in counts}


@pytest.mark.parametrize(
    ("units", "count", "ridge", "message"),
    [
        (("ffn/8x4",), 1, 0.1, "tiles cannot be refitted"),
        (("ffn",), 0, 0.1, "give some rows"),
        (("ffn",), 1, 0.0, "ridge above 0"),
        (("ffn",), 1, "1", "ridge above 0, got 1 and '1'"),
    ],
)
def test_what_cannot_be_refitted_is_refused(units, count, ridge, message):
    model = tiny("bert")
    space = Space(model, *units)
    plan = Plan.of(space, space.ones())
    with pytest.raises(UserError, match=message):
        compensate(cut(model, plan), model, plan, [inputs(model)] * count, ridge)


def test_batches_may_come_from_a_generator():
    model = tiny("bert")
    space = Space(model, "ffn")
    masks = space.ones()
    masks[::2] = 0.0
    plan = Plan.of(space, masks)
    batches = [inputs(model), inputs(model)]
    wanted, own = cut(model, plan), cut(model, plan)
    assert compensate(own, model, plan, iter(batches)) == compensate(wanted, model, plan, batches) != []
    assert all(torch.equal(*pair) for pair in zip(own.parameters(), wanted.parameters(), strict=True))
    with pytest.raises(UserError, match="the inputs of one: give a list of batches"):
        compensate(own, model, plan, inputs(model))


# Forwards that wait for each other


def test_batches_wait_for_each_other_in_front_of_each_module():
    """What is changed in front of a module is what all batches pass, and so is all that comes behind it."""
    model, changed = tiny("bert"), tiny("bert")
    paths = [Space(model).table.reader(f"{layer}.ffn").path for layer in range(2)]
    seen = []

    def halve(name, inputs_):
        seen.append((name, [tuple(one.shape) for one in inputs_]))
        model.get_submodule(name).weight.data *= 0.5

    batches = [inputs(model, seed=seed) for seed in range(4)]
    with torch.no_grad():
        in_lockstep(model, batches, {path: model.get_submodule(path) for path in paths}, halve)
        for path in paths:
            changed.get_submodule(path).weight.mul_(0.5)
    assert seen == [(path, [(3, 7, 48)] * 4) for path in paths]
    assert torch.equal(model(**batches[0]).logits, changed(**batches[0]).logits)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("where", ["in front of a module", "in the forward"])
def test_what_goes_wrong_in_one_batch_ends_all(where):
    model = tiny("bert")
    path = Space(model).table.reader("1.ffn").path
    batches = [inputs(model, seed=seed) for seed in range(3)]
    if where == "in the forward":
        batches[1] = batches[1] | {"input_ids": torch.full((3, 7), 99)}  # no such piece

    def fail(name, inputs_):
        raise ValueError("at the module")

    with pytest.raises((ValueError, IndexError), match=r"at the module|index out of range"):
        in_lockstep(model, batches, {path: model.get_submodule(path)}, fail)
