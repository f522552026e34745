"""Where the bytes of a model are: by the table of its axes, in memory and on disk."""

import pytest
import torch
from made_up_run import write_model
from tiny_models import ARCHITECTURES, MODELS, of_images, tiny, with_sentence_head
from transformers import GPT2Config, GPT2LMHeadModel

from secateur.budget.space import Space
from secateur.measure.inspection import inspect, with_stored_bytes
from secateur.measure.model_size import (
    dense_parts,
    disk_bytes,
    parameter_count,
    shares_embeddings,
    stored_parts,
    tensor_bytes,
)
from secateur.structure.binding import bind
from secateur.structure.model_parts import PARTS, by_part
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_number_of_a_model_is_in_one_part(kind):
    model = tiny(kind)
    parts = dense_parts(model)
    assert list(parts) == list(PARTS) and parts["embeddings"] and parts["layers"]
    assert sum(parts.values()) == 4 * parameter_count(model)
    words = 0 if of_images(model) else model.get_input_embeddings().weight.numel()
    assert 4 * words <= parts["embeddings"] < 4 * (words + 6_000)


def test_an_output_layer_that_shares_the_embeddings_counts_there():
    model = tiny("t5", "ForConditionalGeneration")
    tied = dense_parts(model)
    assert shares_embeddings(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert tied["head"] == 0
    assert dense_parts(model) == tied | {"head": 4 * 50 * 32} and not shares_embeddings(model)


def test_a_model_without_an_output_layer_shares_none(tmp_path):
    assert shares_embeddings(tiny("bert", "Model")) is False
    write_model(tmp_path)
    assert shares_embeddings(load(tmp_path)) is False
    model = tiny("t5", "ForConditionalGeneration")
    space = Space(model, "ffn")
    save(cut(model, Plan.of(space, space.ones())), tmp_path / "tied")
    assert shares_embeddings(load(tmp_path / "tied"))


@pytest.mark.parametrize("which", MODELS)
def test_the_head_is_all_that_the_model_without_one_has_not(which):
    kind, _, shape = which
    bare, parts = tiny(kind, "Model", shape), dense_parts(tiny(*which))
    alone = dense_parts(bare)
    assert (parts["embeddings"], parts["layers"]) == (alone["embeddings"], alone["layers"])


def test_tensors_that_replace_a_module_belong_to_its_part():
    table = bind(tiny("bert"))
    words = "bert.embeddings.word_embeddings"
    sizes = {f"{words}.table.weight": 3, f"{words}.projection.weight": 5, "bert.encoder.layer.0.output.dense.weight": 7}
    assert by_part(table, sizes | {"final_logits_bias": 11}) == {"embeddings": 8, "layers": 7, "head": 11}


def test_the_parts_of_a_compact_folder_are_its_file_without_the_header(tmp_path):
    write_model(tmp_path)
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    parts = stored_parts(tmp_path, load(tmp_path))
    assert sum(parts.values()) == disk_bytes(tmp_path) - 8 - header == sum(tensor_bytes(tmp_path).values())
    assert parts == dense_parts(load(tmp_path))


@pytest.mark.parametrize(("store", "number"), [("fp32", 4), ("bf16", 2)])
def test_the_layers_of_a_sentence_head_are_a_part_of_its_folder(store, number, tmp_path):
    bare, model = (tiny("bert", "Model", dtype=torch.float32) for _ in range(2))
    with_sentence_head(model)
    for name, saved in (("bare", bare), ("sentence", model)):
        save(saved, tmp_path / name, store=store)
    of_bare, found = stored_parts(tmp_path / "bare", bare), stored_parts(tmp_path / "sentence", model)
    width = model.config.hidden_size
    assert found == of_bare | {"head": of_bare["head"] + number * (20 * width + 20)}
    assert sum(found.values()) * 4 == number * sum(dense_parts(model).values())
    assert with_stored_bytes(inspect(model), model, tmp_path / "sentence").bytes == found
    assert disk_bytes(tmp_path / "sentence") == sum(
        p.stat().st_size for p in tmp_path.rglob("sentence/**/*.safetensors")
    )


def test_a_family_without_a_table_has_no_parts():
    config = GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, n_positions=4)
    assert dense_parts(GPT2LMHeadModel(config)) is None and shares_embeddings(GPT2LMHeadModel(config)) is None
