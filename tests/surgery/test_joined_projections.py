"""Query, key and value of a cut model as one product of joined weights: only where nothing else acts at them."""

import copy

import pytest
import torch
from tiny_models import random_masks, tiny
from torch import nn

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.compact.attention import JOIN_FROM
from secateur.surgery.cut import cut

PROJECTIONS = ("query", "key", "value")
RECORDS = pytest.mark.filterwarnings("ignore:.*torch.jit.trace", "ignore::torch.jit.TracerWarning")


class Adapted(nn.Module):
    """A projection with an adapter of low rank beside it, as PEFT wraps one: its weights look like the projection's."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, states):
        return self.base(states) + self.up(self.down(states))


class Dispatched:
    """What accelerate puts in place of a module's `forward`."""

    def __init__(self, module):
        self.stock = module.forward

    def __call__(self, states):
        return 2 * self.stock(states)


@pytest.fixture(scope="module")
def small():
    model = tiny("bert", "Model", dtype=torch.float32)
    return cut(model, Plan.of(space := Space(model, "ffn", "vo"), random_masks(space, 0.7)))


def attention_of(model):
    return model.encoder.layer[0].attention.self


def merged(model, name):
    """The attention with the adapter of one projection added to its weights."""
    attention = attention_of(copy.deepcopy(model))
    adapted = getattr(attention, name)
    adapted.base.weight.data += adapted.up.weight @ adapted.down.weight
    setattr(attention, name, adapted.base)
    return attention


def states(tokens=JOIN_FROM):
    torch.manual_seed(0)
    return torch.randn(1, tokens, 32)


class First(nn.Module):
    """A module that returns a tensor alone, as tracing asks for."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, states):
        return self.module(states)[0]


def eager(attention):
    return First(attention)


def traced(attention):
    return torch.jit.trace(First(attention), (states(),))


def compiled(attention):
    return torch.compile(First(attention), backend="eager", fullgraph=True)


def exported(attention):
    return torch.export.export(First(attention), (states(),)).module()


@RECORDS
@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("made", [eager, traced, compiled, exported], ids=lambda made: made.__name__)
@torch.no_grad()
def test_an_adapter_on_any_projection_acts(made, name, small):
    model = copy.deepcopy(small)
    attention, plain = attention_of(model), attention_of(small)
    setattr(attention, name, Adapted(getattr(attention, name)))
    expected = merged(model, name)(states())[0]
    assert not torch.allclose(expected, plain(states())[0])
    torch.testing.assert_close(made(attention)(states()), expected)


@RECORDS
@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("made", [eager, traced], ids=lambda made: made.__name__)
@torch.no_grad()
def test_what_acts_at_a_projection_acts_in_evaluation_too(made, name, small):
    attention = attention_of(copy.deepcopy(small))
    doubled = copy.deepcopy(attention)
    getattr(doubled, name).weight.data *= 2
    getattr(doubled, name).bias.data *= 2
    expected = doubled(states())[0]
    projection = getattr(attention, name)
    hook = projection.register_forward_hook(lambda module, args, output: 2 * output)
    torch.testing.assert_close(made(attention)(states()), expected)
    hook.remove()
    projection.forward = Dispatched(projection)
    torch.testing.assert_close(made(attention)(states()), expected)


@torch.no_grad()
def test_a_hook_before_a_projection_sees_its_inputs(small):
    attention, seen = attention_of(copy.deepcopy(small)), []
    attention.value.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    attention(states())
    assert seen == [(1, JOIN_FROM, 32)]


class Quantised(torch.Tensor):
    """A weight as libraries that quantise in place store it: a tensor that wraps another, and has products alone."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            return function(args[0], args[1].inner, *args[2:], **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(f"no {function}")


@torch.no_grad()
def test_weights_of_another_class_are_not_joined(small):
    attention = attention_of(copy.deepcopy(small))
    expected = attention(states())[0]
    for name in PROJECTIONS:
        projection = getattr(attention, name)
        projection.weight = nn.Parameter(Quantised(projection.weight.detach()), requires_grad=False)
    torch.testing.assert_close(attention(states())[0], expected)
