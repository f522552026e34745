"""What is changed of a model for a while is restored, also where the block is interrupted."""

import pytest
from torch import nn

from secateur.system.model_state import evaluating, frozen


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_modes_and_gradients_are_restored(error):
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Linear(1, 1))
    model[1].eval()
    model[2].weight.requires_grad_(False)
    before = modes(model), [parameter.requires_grad for parameter in model.parameters()]
    for context in (evaluating([model]), frozen(model)):
        try:
            with context:
                assert not any(modes(model))
                if error is not None:
                    raise error
        except (KeyboardInterrupt, RuntimeError):
            pass
        assert (modes(model), [parameter.requires_grad for parameter in model.parameters()]) == before


def test_a_frozen_model_has_no_gradients():
    model = nn.Linear(1, 1)
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
