"""What is changed of a model for a while is restored, also where the block is interrupted."""

from pathlib import Path

import pytest
import torch
from small_world import write_model
from torch import nn
from transformers import BertModel

from secateur.system.model_state import evaluating, frozen, in_own_memory, on_device

MAPS = Path("/proc/self/maps")


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


class Moved(nn.Linear):
    """Says where it was moved to, and stays on the CPU."""

    def __init__(self):
        super().__init__(1, 1)
        self.places = []

    def to(self, place):
        self.places.append(str(place))
        return self


def test_a_model_is_moved_to_a_device_and_back():
    models = Moved(), Moved()
    with pytest.raises(KeyboardInterrupt), on_device(models, torch.device("cuda", 0)):
        assert [model.places for model in models] == [["cuda:0"]] * 2
        raise KeyboardInterrupt
    assert [model.places for model in models] == [["cuda:0", "cpu"]] * 2
    with on_device(models[:1]):
        assert models[0].places == ["cuda:0", "cpu"]
    assert models[0].places[-1] == "cpu" and len(models[0].places) == 3


def test_a_frozen_model_has_no_gradients():
    model = nn.Linear(1, 1)
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what a process has mapped")
def test_the_file_of_a_model_is_not_kept_for_one_of_its_weights(tmp_path):
    model = BertModel.from_pretrained(write_model(tmp_path))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert str(tmp_path) in MAPS.read_text()
    in_own_memory(model)
    assert str(tmp_path) not in MAPS.read_text()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
