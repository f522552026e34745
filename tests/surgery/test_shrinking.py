"""A cut in place is done or not done: an interrupt leaves the model and its optimizer usable."""

import sys

import pytest
import torch
from tiny_models import CLASSIFIERS, LEADING, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery import shrinking as module
from secateur.surgery.cut import cut
from secateur.surgery.shrinking import Shrinking

WHICH = CLASSIFIERS[0].values[0]


class Training:
    """A model with an optimizer that has taken a step, and two choices of units, one within the other."""

    def __init__(self):
        self.model = tiny(*WHICH)
        self.batch = inputs(self.model)
        space = Space(self.model, "ffn", "qk", "vo")
        order = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
        self.kept = [space.choose(order, density) for density in (0.6, 0.3)]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.shrinking = Shrinking(self.model, space)
        self.step()

    def step(self):
        """The outputs before an optimizer step, and all weights after it."""
        logits = self.model(**self.batch).logits
        self.optimizer.zero_grad()
        logits.square().sum().backward()
        self.optimizer.step()
        return [logits.detach(), *(parameter.detach().clone() for parameter in self.model.parameters())]

    def contents(self):
        """Which tensors the model and the optimizer hold, and which units are kept."""
        groups = [[id(parameter) for parameter in group["params"]] for group in self.optimizer.param_groups]
        state = {id(p): {key: id(value) for key, value in own.items()} for p, own in self.optimizer.state.items()}
        own = {name: id(parameter) for name, parameter in self.model.named_parameters()}
        return own, groups, state, self.shrinking.kept.tolist(), list(self.shrinking.stored)

    def changes(self):
        cut, optimizer = self.shrinking.cut, self.optimizer
        first, second = self.kept
        return [
            lambda: cut(first, optimizer),
            lambda: cut(second, optimizer),
            lambda: self.shrinking.restore(optimizer),
        ]


def same(one, other):
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


class Interrupts:
    """Raises once, at a call of the tensors' index selection."""

    def __init__(self, call, monkeypatch):
        self.left, self.select = call, module.select
        monkeypatch.setattr(module, "select", self)

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.select(*args)


def test_an_interrupt_at_any_tensor_changes_nothing(monkeypatch):
    interrupted, plain = Training(), Training()
    for mine, theirs in zip(interrupted.changes(), plain.changes(), strict=True):
        before, call = interrupted.contents(), 1
        while True:
            with monkeypatch.context() as patch:
                raising = Interrupts(call, patch)
                try:
                    mine()
                except KeyboardInterrupt:
                    assert interrupted.contents() == before
                else:
                    break
            call += 1
        assert call > 30 and raising.left > 0
        theirs()
        assert same(interrupted.step(), plain.step())


@pytest.mark.parametrize("number", range(3), ids=["cut", "cut again", "restored"])
def test_an_interrupt_while_the_result_is_assigned_leaves_all_of_it(number):
    plain = Training()
    for change in plain.changes()[: number + 1]:
        change()
    wanted, line = plain.step(), 1
    while True:
        interrupted = Training()
        *earlier, last = interrupted.changes()[: number + 1]
        for change in earlier:
            change()
        with at_line(line, module._MovedOptimizer.assign, Shrinking._take):
            try:
                last()
            except KeyboardInterrupt:
                assert same(interrupted.step(), wanted)
            else:
                break
        line += 1
    assert line > 10


class at_line:
    """Within the block, the n-th line that one of the functions executes raises KeyboardInterrupt."""

    def __init__(self, number, *functions):
        self.left, self.codes = number, {function.__code__ for function in functions}

    def __enter__(self):
        self.earlier = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *error):
        sys.settrace(self.earlier)

    def trace(self, frame, event, argument):
        if frame.f_code not in self.codes:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace


@pytest.mark.parametrize("which", LEADING)
def test_a_cut_model_has_its_parameters_in_the_order_of_the_stock_model(which):
    """An optimizer's moments are saved by the number of a parameter, in this order."""
    model = tiny(*which)
    space = Space(model, "ffn", "qk", "vo")
    names = [name for name, _ in cut(model, Plan.of(space, random_masks(space))).named_parameters()]
    assert names == [name for name, _ in model.named_parameters() if name in set(names)]
