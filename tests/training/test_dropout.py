"""Dropout is set wherever a family keeps it."""

import pytest
import torch
from tiny_models import LEADING, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.compact import CompactAttention
from secateur.surgery.cut import cut
from secateur.training.dropout import set_dropout


def assert_dropout_is_set(model, given):
    set_dropout(model, 0.0)
    assert torch.equal(model(**given).logits, model(**given).logits)
    set_dropout(model, 0.5)
    assert not torch.equal(model(**given).logits, model(**given).logits)


@pytest.mark.parametrize("which", LEADING)
def test_dropout_is_set_wherever_a_family_keeps_it(which):
    """In training mode two forwards are the same without it, and differ with it."""
    kind, head, shape = which
    model = tiny(kind, head, shape, dropout=0.5).train()
    given = inputs(model, padded=False)
    assert_dropout_is_set(model, given)
    space = Space(model, "qk", "vo")
    assert_dropout_is_set(cut(model, Plan.of(space, random_masks(space))), given)


@pytest.mark.parametrize("which", LEADING)
def test_an_attention_that_is_cut_keeps_the_dropout_of_the_stock_one(which):
    """Of the weights of attention, which only attention drops."""
    kind, head, shape = which
    model = tiny(kind, head, shape, dropout=0.0)
    space = Space(model, "qk", "vo")
    small = cut(model, Plan.of(space, random_masks(space)))
    attentions = [module for module in small.modules() if isinstance(module, CompactAttention)]
    assert attentions and {one.dropout_probability() for one in attentions} == {0.0}
    set_dropout(small, 0.25)
    assert {one.dropout_probability() for one in attentions} == {0.25}
