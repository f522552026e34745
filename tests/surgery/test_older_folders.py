"""Compact folders of secateur 0.1.0: their `secateur` key has version 1, without how an attention is called."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import inputs, outputs, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.schema import VERSION, Structure
from secateur.surgery.uncut import uncut

FOLDERS = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "compact"
OUTPUTS = json.loads((FOLDERS / "outputs.json").read_text())


def with_automodel(folder):
    config = json.loads((folder / "config.json").read_text())
    (auto,) = config["auto_map"]
    return getattr(transformers, auto).from_pretrained(folder)


def with_its_own_code(folder):
    """As `trust_remote_code=True` does where secateur is not installed: by the code in the folder."""
    (where,) = json.loads((folder / "config.json").read_text())["auto_map"].values()
    name = f"modeling_secateur_{folder.name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, folder / "modeling_secateur.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, where.partition(".")[2]).from_pretrained(folder)


def assert_same_outputs(model, name):
    ids = torch.tensor(OUTPUTS[name]["tokens"])
    more = {"decoder_input_ids": ids} if name == "t5" else {}
    with torch.no_grad():
        found = model.eval()(input_ids=ids, attention_mask=(ids != 1).long(), **more)[0]
    torch.testing.assert_close(found, torch.tensor(OUTPUTS[name]["outputs"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [load, with_automodel, with_its_own_code])
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_older_folder_gives_its_old_outputs(name, way):
    assert_same_outputs(way(FOLDERS / name), name)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_encoder_of_an_older_folder_is_loaded_alone(name, tmp_path):
    whole, encoder = load(FOLDERS / name), transformers.AutoModel.from_pretrained(FOLDERS / name)
    state = whole.state_dict()
    prefix = "" if whole.base_model is whole else f"{whole.base_model_prefix}."
    assert encoder.num_parameters() <= whole.num_parameters()
    assert all(torch.equal(value, state[prefix + key]) for key, value in encoder.state_dict().items())
    save(encoder, tmp_path / "again")
    assert load(tmp_path / "again").plan == whole.plan


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_older_folder_is_saved_as_one_of_this_version(name, tmp_path):
    model = load(FOLDERS / name)
    save(model, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())["secateur"]
    assert saved["version"] == VERSION and saved == model.config.secateur
    assert_same_outputs(load(tmp_path / "again"), name)


@pytest.mark.parametrize("way", [load, with_automodel])
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_older_folder_that_is_saved_again_has_the_auto_map_of_a_new_one(name, way, tmp_path):
    """Version 0.1.0 left the encoder and other heads out of it."""
    model = way(FOLDERS / name)
    save(model, tmp_path / "again")
    save(cut(*uncut(model)), tmp_path / "new")
    older, again, new = (
        json.loads((place / "config.json").read_text())["auto_map"]
        for place in (FOLDERS / name, tmp_path / "again", tmp_path / "new")
    )
    assert again == new == new | older
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "again")
    assert new["AutoModel"] == f"modeling_secateur.{type(encoder).__name__}"


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_older_key_is_read_as_the_structure_of_its_plan(name, tmp_path):
    """How an attention is called follows from the names of its modules, where version 1 leaves it out."""
    older = json.loads((FOLDERS / name / "config.json").read_text())["secateur"]
    assert older["version"] == 1
    assert Structure.from_dict(older).to_dict() == load(FOLDERS / name).config.secateur


def test_a_damaged_key_of_version_1_is_refused():
    older = json.loads((FOLDERS / "t5" / "config.json").read_text())["secateur"]
    path, entry = next(iter(older["attention"].items()))
    for wrong in ([], {**entry, "colour": 1}, {**entry, "query": 1}):
        with pytest.raises(ValueError, match="wrongly"):
            Structure.from_dict(older | {"attention": {path: wrong}})
    with pytest.raises(ValueError, match="wrongly"):
        Structure.from_dict(older | {"attention": {"no.such.place": entry}})


def test_factorised_embeddings_of_a_key_of_version_2_have_no_empty_weight(tmp_path):
    model = tiny("bert", dtype=torch.float32)
    space = Space(model, "ffn")
    small = cut(model, Plan.of(space, space.ones(), embedding_rank=5))
    save(small, tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    for part in ("quantised", "shared"):
        del config["secateur"][part]
    config["secateur"]["version"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["bert.embeddings.word_embeddings.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load(tmp_path)
    assert torch.equal(outputs(loaded, inputs(model))[0]["logits"], outputs(small, inputs(model))[0]["logits"])
