"""Law 9: `detach` restores the identical model: classes, keys, values, attributes, and no hook left."""

import pytest
import torch
from tiny_models import IN_UNITS, METHODS, UNIT_SETS, inputs, tiny
from torch import nn

from secateur import methods
from secateur.budget.space import Space
from secateur.surgery.masking import Attachment, attach, attached
from secateur.system.errors import UserError


class OtherNorm(nn.LayerNorm):
    """A norm without support for masks."""


def snapshot(model):
    """Everything that attaching might change: class, attributes and hooks of every module, and the state."""
    modules = {
        name: (type(module), sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    return modules, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_as_before(model, before):
    modules, state = snapshot(model)
    assert modules == before[0]
    assert list(state) == list(before[1])
    assert all(torch.equal(state[name], before[1][name]) for name in state)


@pytest.mark.parametrize(("which", "units"), IN_UNITS)
def test_detach_restores_the_model(which, units):
    model = tiny(*which)
    space, before, batch = Space(model, *units), snapshot(model), inputs(model)
    reference = model(**batch)[0]
    for _ in range(2):
        attachment = attach(model, space, torch.full((len(space),), 0.5))
        assert list(model.state_dict()) == list(before[1])
        assert not torch.equal(model(**batch)[0], reference)
        attachment.detach()
        assert_as_before(model, before)
    assert torch.equal(model(**batch)[0], reference)


@pytest.mark.parametrize("name", METHODS)
def test_detach_after_a_failure(name):
    model = tiny("bert")
    space = Space(model, *UNIT_SETS[-1])
    before, method = snapshot(model), methods.METHODS.get(name)(space)
    with pytest.raises(RuntimeError, match="in the middle"), attached(model, space, method.masks):
        model(**inputs(model))[0].sum().backward()
        raise RuntimeError("in the middle")
    assert_as_before(model, before)


def test_masks_can_be_attached_only_once():
    model = tiny("bert")
    space, before = Space(model), snapshot(model)
    with attached(model, space, space.ones()), pytest.raises(UserError, match="already"):
        attach(model, space, space.ones())
    assert_as_before(model, before)


def test_a_refused_attachment_leaves_the_model_unchanged():
    model = tiny("bert")
    model.bert.encoder.layer[1].output.LayerNorm.__class__ = OtherNorm
    space, before = Space(model, "hidden", "ffn"), snapshot(model)
    with pytest.raises(UserError, match="OtherNorm"):
        attach(model, space, space.ones())
    assert_as_before(model, before)


@pytest.mark.parametrize("name", ["_hook_row", "_multiply_input", "_exchange_norm"])
def test_an_interrupted_attachment_leaves_the_model_unchanged(monkeypatch, name):
    """Before a module, between its two hooks, or before its class is exchanged."""
    model = tiny("bert")
    space, before = Space(model, "hidden", "ffn", "qk"), snapshot(model)
    calls = iter(range(100))

    def interrupted(call, *args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return call(*args)

    if name == "_multiply_input":  # the second hook of a Linear that writes to the residual stream
        register = torch.nn.Module.register_forward_pre_hook
        monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", lambda *args: interrupted(register, *args))
    else:
        call = getattr(Attachment, name)
        monkeypatch.setattr(Attachment, name, lambda *args: interrupted(call, *args))
    with pytest.raises(KeyboardInterrupt):
        attach(model, space, space.ones())
    assert_as_before(model, before)


def test_masks_can_be_detached_again():
    model = tiny("bert")
    space, before = Space(model, "hidden", "ffn"), snapshot(model)
    first = attach(model, space, space.ones())
    first.detach()
    first.detach()
    assert_as_before(model, before)
    second, masked = attach(model, space, space.ones()), snapshot(model)
    first.detach()
    assert_as_before(model, masked)  # the masks that another attachment has put on stay
    second.detach()
    assert_as_before(model, before)
