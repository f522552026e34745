"""The method's masks while a model is trained or evaluated."""

import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.training.masks import TrainingMasks


def test_masks_are_attached_once_and_taken_off_by_the_outermost_block():
    model = tiny("bert", dtype=torch.float32)
    method = Grain(Space(model, "ffn"), cubic(1.0, 0.7, begin=0.1, end=0.5))
    masks = TrainingMasks(model, method)
    device = torch.device("cpu")
    with masks.attached(device):
        outer = masks.attachment
        with masks.attached(device):
            assert masks.attachment is outer is not None
        assert masks.attachment is outer
    assert masks.attachment is None
    with TrainingMasks(model, None).attached(device):
        pass
