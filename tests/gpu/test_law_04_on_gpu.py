"""Law 4 on a GPU: what is saved from a GPU is loaded bit for bit, and gives the same outputs and texts there."""

import pytest
import torch
from law_assertions import everything
from tiny_models import LEADING, edge_cases, inputs

from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut


@pytest.mark.parametrize("which", LEADING)
def test_saved_is_loaded_bit_for_bit(which, dtype, device, tmp_path):
    kind, _, shape = which
    model, plan, _ = edge_cases(kind, shape, soft=True, dtype=dtype)
    small = cut(model.to(device), plan)
    save(small, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.device.type == "cpu" and loaded.plan == small.plan
    loaded.to(device=device, dtype=dtype)  # transformers widens a part of T5 when it loads float16
    mine, theirs = loaded.state_dict(), small.state_dict()
    assert list(mine) == list(theirs)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    batch = inputs(small)
    given, expected = everything(loaded, batch), everything(small, batch)
    assert [name for name in expected if not torch.equal(given[name], expected[name])] == []
    if small.can_generate():
        source = {name: batch[name] for name in ("input_ids", "attention_mask")}
        texts = [one.generate(**source, max_new_tokens=4, num_beams=2) for one in (loaded, small)]
        assert torch.equal(*texts)
