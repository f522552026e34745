"""Dropout is set wherever a family keeps it."""

import pytest
import torch
from tiny_models import LEADING, tiny

from secateur.training.dropout import set_dropout


@pytest.mark.parametrize("which", LEADING)
def test_dropout_is_set_wherever_a_family_keeps_it(which):
    """In training mode two forwards are the same without it, and differ with it."""
    kind, head, shape = which
    model = tiny(kind, head, shape, dropout=0.5).train()
    ids = torch.arange(1, 13).view(2, 6)
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    set_dropout(model, 0.0)
    assert torch.equal(model(**given).logits, model(**given).logits)
    set_dropout(model, 0.5)
    assert not torch.equal(model(**given).logits, model(**given).logits)
