"""Where tensors are created while a CUDA graph is captured."""

import pytest
import torch

from secateur.system.compat.capture import creating_on


@pytest.mark.parametrize("number", [True, 3, 0.5])
def test_numbers_are_filled_in_on_the_device(number):
    with creating_on(torch.device("meta")):
        made, named = torch.tensor(number), torch.tensor(number, device="cpu", dtype=torch.float16)
    assert (made.device.type, made.shape, made.dtype) == ("meta", (), torch.tensor(number).dtype)
    assert torch.equal(named, torch.tensor(number, dtype=torch.float16))
    assert torch.tensor(number).device.type == "cpu"


def test_other_tensors_are_created_on_the_device_unless_another_is_named():
    with creating_on(torch.device("meta")):
        assert torch.arange(3).device.type == torch.tensor([1, 2]).device.type == "meta"
        assert torch.arange(3, device="cpu").tolist() == [0, 1, 2]
