"""Law 15 on a GPU, whose fused kernels demand aligned inputs: heads of many sizes in every layout.

Every mask, bias, dtype and mode is tested. The models are wide enough that heads have odd widths around 16; lengths are
odd, multiples of 4, and longer than what a kernel takes at a time. In every case the cut model gives what the masked
one gives, and gradients for it.
"""

import pytest
import torch
from law_assertions import assert_same, everything, in_float64, of_kept_stream, under_masks
from tiny_models import ARCHITECTURES, LAYOUTS, inputs, laid_out, names_of, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut

REPEATS = {"7 tokens": 1, "28 tokens": 4, "133 tokens": 19}
CASES = [*LAYOUTS, "chosen"]


def wide(kind, dtype, dropout=0.0):
    """A model of two layers with four heads of 32 dims, in which most of what heads keep are odd numbers of dims."""
    sizes = dict.fromkeys(names_of(kind, "hidden_size"), 128) | dict.fromkeys(names_of(kind, "d_kv"), 32)
    sizes |= dict.fromkeys(names_of(kind, "max_position_embeddings"), 160)
    return tiny(kind, dtype=dtype, dropout=dropout, **sizes)


def planned(model, layout):
    space = Space(model, "qk", "vo", "ffn")
    plan = Plan.of(space, masks := random_masks(space, 0.45))
    layouts = None if layout == "chosen" else laid_out(plan, space, LAYOUTS[layout])
    return Plan.of(space, masks, layouts=layouts)


def batches(model):
    """Padded and full, of each length; a decoder reads as many tokens."""
    for padded in (True, False):
        for repeats in REPEATS.values():
            yield {name: value.repeat(1, repeats) for name, value in inputs(model, padded=padded).items()}


@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_cut_equals_masked(kind, layout, dtype, device):
    model = wide(kind, dtype).to(device)
    plan = planned(model, layout)
    space, small, exact = plan.space(model), cut(model, plan), in_float64(model)
    for batch in batches(model):
        mine = everything(small, batch)
        masked, wanted = (
            of_kept_stream(under_masks(one, space, plan.masks, batch), mine, space, plan) for one in (model, exact)
        )
        assert_same(mine, masked, wanted)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_it_trains_with_dropout(kind, layout, autocast, device):
    model = wide(kind, torch.float32, dropout=0.1)
    small = cut(model, planned(model, layout)).to(device).train()
    for batch in batches(small):
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            logits = small(**batch).logits
        logits.float().square().mean().backward()
        gradients = {name: own.grad for name, own in small.named_parameters() if own.requires_grad}
        assert [name for name, own in gradients.items() if own is None or not bool(own.isfinite().all())] == []
        small.zero_grad()
