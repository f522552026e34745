"""Weights in 16 bits in a file: rounded before, loaded in fp32 in every way, with int8 rows and scales unchanged."""

import importlib.util
import json
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import WRITERS, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.storage import as_stored, stored_bytes
from secateur.system.errors import UserError


def made(which=("bert",), rows="int8"):
    model = tiny(*which, dtype=torch.float32)
    space = Space(model, "ffn", "hidden")
    masks = space.ones()
    masks[::3] = 0.0
    return cut(model, Plan.of(space, masks, embedding_rows=rows))


def with_its_own_code(folder):
    """As `trust_remote_code=True` does where secateur is not installed: by the code in the folder."""
    where = json.loads((folder / "config.json").read_text())["auto_map"]["AutoModelForSequenceClassification"]
    spec = importlib.util.spec_from_file_location("modeling_secateur_stored", folder / "modeling_secateur.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, where.partition(".")[2]).from_pretrained(folder)


@pytest.mark.parametrize("store", ["bf16", "fp16"])
def test_what_is_rounded_is_what_is_loaded_in_every_way(store, tmp_path):
    small = as_stored(made(), dtype=store)
    save(small, tmp_path, store=store)
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in load_file(tmp_path / "model.safetensors").values()}
    assert types == {"int8", "float32", {"bf16": "bfloat16", "fp16": "float16"}[store]}
    assert abs((tmp_path / "model.safetensors").stat().st_size - stored_bytes(small, store)) < 10_000
    state = small.state_dict()
    auto = transformers.AutoModelForSequenceClassification.from_pretrained
    for load_it in (load, auto, with_its_own_code):
        loaded = load_it(tmp_path).state_dict()
        assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
            name: (t.dtype, t.shape) for name, t in state.items()
        }
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("which", WRITERS[:1])
def test_a_tied_weight_is_written_once(which, tmp_path):
    small = as_stored(made(which, None), dtype="bf16")
    save(small, tmp_path, store="bf16")
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = load(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small.state_dict().items())


def test_values_that_are_too_large_are_refused(tmp_path):
    small = made(rows=None)
    small.classifier.weight.data[0, 0] = 1e6
    with pytest.raises(UserError, match=r"classifier\.weight holds values that are too large for fp16"):
        save(small, tmp_path, store="fp16")
    save(small, tmp_path, store="bf16")
    with pytest.raises(UserError, match="one of fp32, bf16, fp16, got 'int4'"):
        save(small, tmp_path, store="int4")
