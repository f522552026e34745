"""Sentence heads: what they compute, and the folders of sentence-transformers in which they are kept."""

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_world import tokenizer, write_model
from tiny_models import ENCODERS, inputs, random_masks, tiny
from transformers import PreTrainedModel, TrainingArguments, pipeline
from transformers.utils import hub

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.opening import auto_class_opened, open_encoder, open_model
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.sentence.folder import read_head, read_settings, write_head
from secateur.surgery.sentence.head import POOLINGS, Dense, SentenceHead, Settings
from secateur.surgery.storage import STORED, as_stored
from secateur.surgery.uncut import planned_structure
from secateur.system.compat.trainer import HookedTrainer
from secateur.system.errors import UserError

SETTINGS = Settings({"query": "query: ", "document": ""}, "query", "cosine", 24, True)


def head_for(model, *, dense=True, poolings=("mean",), seed=0):
    torch.manual_seed(seed)
    width = model.config.hidden_size
    layers = [Dense(width, 20, True, torch.nn.Tanh())] if dense else []
    return SentenceHead(poolings, layers, width=width, settings=SETTINGS)


def with_head(kind="bert", dtype=torch.float64, **options):
    model = tiny(kind, "Model", dtype=dtype)
    return attach_head(model, head_for(model, **options))


def vectors(model, batch):
    with torch.no_grad():
        return model(**batch).sentence_embedding


def small(model, *units, density=0.6):
    space = Space(model, *units)
    masks = random_masks(space, density, soft=True)
    return cut(model, Plan.of(space, masks))


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean")], ids=str)
def test_poolings_compute_what_sentence_transformers_computes(pooling, left):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    states, mask = torch.randn(3, 6, 8), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    mask = mask.flip(1) if left else mask
    theirs = modules.Pooling(8, pooling_mode=pooling)({"token_embeddings": states, "attention_mask": mask})
    names = (pooling,) if isinstance(pooling, str) else pooling
    head = SentenceHead(names, normalise=False, width=8)
    ours = head(states, mask)
    torch.testing.assert_close(ours, theirs["sentence_embedding"])
    assert head.size == ours.shape[1] == 8 * len(names)
    additive = (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    torch.testing.assert_close(head(states, additive), ours)


def test_vectors_have_length_one_after_the_layers():
    model = with_head()
    found = vectors(model, inputs(model))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=found.dtype))
    assert found.shape == (3, 20) and head_of(model).size == 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_vectors_of_a_model_in_16_bits_are_in_float32(dtype):
    whole, batch = with_head(dtype=torch.float32), inputs(tiny("bert"))
    half = with_head(dtype=torch.float32).to(dtype)
    found = vectors(half, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, vectors(whole, batch), rtol=0, atol=0.05)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "pooled"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_with_a_head_is_saved_and_loaded_with_it(kind, dense, tmp_path):
    model = with_head(kind, torch.float32, dense=dense)
    one = small(model, "hidden", "ffn", "vo", "layer")
    for name, saved in (("dense", model), ("small", one)):
        save(saved, tmp_path / name)
        again = open_model(tmp_path / name)
        batch = inputs(model)
        assert torch.equal(vectors(again, batch), vectors(saved, batch))
        assert head_of(again).settings == SETTINGS
        assert head_of(again).size == (20 if dense else head_of(saved).width)
    assert head_of(one).width < head_of(model).width
    assert torch.equal(vectors(load(tmp_path / "small"), batch), vectors(one, batch))


@pytest.mark.parametrize("store", STORED)
def test_sentence_transformers_loads_a_folder_with_the_same_vectors(store, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = open_model(write_model(tmp_path / "encoder"))
    attach_head(model, head_for(model))
    texts = ["good film and book", "a Dull film"]
    for name, saved in (("dense", model), ("small", small(model, "hidden", "ffn", "qk"))):
        saved = as_stored(saved, dtype=store)
        save(saved, tmp_path / name, tokenizer=tokenizer(), store=store)
        types = {tensor.dtype for tensor in load_file(tmp_path / name / "2_Dense" / "model.safetensors").values()}
        assert types == {STORED[store]}
        theirs = library.SentenceTransformer(str(tmp_path / name), trust_remote_code=True, device="cpu")
        assert theirs.prompts["query"] == "query: " and theirs.max_seq_length == 24
        batch = tokenizer()([f"query: {text}".lower() for text in texts], padding=True, return_tensors="pt")
        torch.testing.assert_close(torch.from_numpy(theirs.encode(texts)), vectors(saved, batch), rtol=1e-5, atol=1e-6)
        assert torch.equal(vectors(open_model(tmp_path / name), batch), vectors(saved, batch))


def test_a_cut_folder_that_the_library_saves_again_is_read_by_both(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = open_model(write_model(tmp_path / "encoder"))
    one = small(attach_head(model, head_for(model)), "hidden", "ffn")
    save(one, tmp_path / "ours", tokenizer=tokenizer())
    texts = ["good film and book", "a Dull film"]
    first = library.SentenceTransformer(str(tmp_path / "ours"), trust_remote_code=True, device="cpu")
    first.save(str(tmp_path / "theirs"))
    again = library.SentenceTransformer(str(tmp_path / "theirs"), trust_remote_code=True, device="cpu")
    torch.testing.assert_close(*map(torch.from_numpy, (again.encode(texts), first.encode(texts))))
    assert torch.equal(vectors(load(tmp_path / "theirs"), inputs(model)), vectors(one, inputs(model)))


def test_the_pipeline_of_transformers_gives_the_states_of_tokens(tmp_path):
    """As of the folders that sentence-transformers writes: it does not pool."""
    model = open_model(write_model(tmp_path / "encoder"))
    one = small(attach_head(model, head_for(model)), "hidden", "ffn")
    save(one, tmp_path / "small", tokenizer=tokenizer())
    with torch.no_grad():
        states = one(**tokenizer()(["a dull film"], return_tensors="pt"), output_hidden_states=True).hidden_states
    found = pipeline("feature-extraction", str(tmp_path / "small"), trust_remote_code=True, device="cpu")("a dull film")
    torch.testing.assert_close(torch.tensor(found), states[-1])
    assert states[-1].shape == (1, 5, head_of(one).width)


@pytest.mark.parametrize(
    ("prompts", "document"),
    [
        ({"query": "a ", "passage": "book and "}, "book and "),
        ({"query": "a ", "corpus": "book and "}, "book and "),
        ({"passage": "book and ", "corpus": "a "}, "book and "),
        ({"document": "a ", "passage": "book and "}, "a "),
        ({"document": "", "passage": "book and "}, ""),
        ({"query": "a ", "passage": ""}, ""),
    ],
    ids=str,
)
def test_documents_have_the_prompt_in_a_cut_folder_by_which_they_were_trained(prompts, document, tmp_path):
    """sentence-transformers takes the prompt named document, and has an empty one where there is none of this name."""
    library = pytest.importorskip("sentence_transformers")
    write_head(SentenceHead(("mean",), width=16, settings=Settings(prompts)), Path(write_model(tmp_path / "whole")))
    model = open_model(tmp_path / "whole")
    assert head_of(model).settings.prompts.get("document", "") == document
    save(small(model, "hidden", "ffn"), tmp_path / "small", tokenizer=tokenizer())
    theirs = library.SentenceTransformer(str(tmp_path / "small"), trust_remote_code=True, device="cpu")
    expected = theirs.encode(["a dull film"], prompt=document)
    torch.testing.assert_close(*map(torch.from_numpy, (theirs.encode_document(["a dull film"]), expected)))
    assert {name: theirs.prompts[name] for name in prompts} == prompts


@pytest.mark.parametrize("poolings", [("cls", "mean"), ("mean", "cls"), ("lasttoken", "max", "mean")], ids=str)
def test_several_poolings_keep_their_order(poolings, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = open_model(write_model(tmp_path / "encoder"))
    attach_head(model, head_for(model, dense=False, poolings=poolings))
    save(model, tmp_path / "one", tokenizer=tokenizer())
    again, batch = open_model(tmp_path / "one"), tokenizer()(["a dull film"], return_tensors="pt")
    assert head_of(again).poolings == poolings and torch.equal(vectors(again, batch), vectors(model, batch))
    theirs = library.SentenceTransformer(str(tmp_path / "one"), device="cpu").encode(["a dull film"], prompt="")
    torch.testing.assert_close(torch.from_numpy(theirs), vectors(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_the_settings_of_an_encoder_are_read_under_their_old_names(name, tmp_path):
    write_head(SentenceHead(("mean",), width=16, settings=SETTINGS), tmp_path)
    (tmp_path / "sentence_bert_config.json").rename(tmp_path / name)
    assert read_settings(tmp_path) == SETTINGS


def test_a_folder_that_the_library_writes_now_is_read(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = open_model(write_model(tmp_path / "encoder"))
    attach_head(model, head_for(model, poolings=("max",)))
    save(model, tmp_path / "ours", tokenizer=tokenizer())
    library.SentenceTransformer(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    again = open_model(tmp_path / "theirs")
    assert torch.equal(vectors(again, inputs(model)), vectors(model, inputs(model)))
    assert head_of(again).settings.prompts == SETTINGS.prompts


def test_an_encoder_that_was_saved_under_the_name_of_another_head_is_opened_with_its_sentence_head(tmp_path):
    """all-mpnet-base-v2 and all-distilroberta-v1 are such folders."""
    model = open_model(write_model(tmp_path / "encoder"))
    save(attach_head(model, head_for(model)), tmp_path / "sentences")
    config = json.loads((tmp_path / "sentences" / "config.json").read_text())
    for name in ("BertForMaskedLM", "BertForSequenceClassification"):
        (tmp_path / "sentences" / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
        for opened in (open_model(tmp_path / "sentences"), open_encoder(tmp_path / "sentences")):
            assert torch.equal(vectors(opened, inputs(model)), vectors(model, inputs(model)))
            assert opened.pooler is None
        assert auto_class_opened(tmp_path / "sentences") == "AutoModel"


def test_a_re_ranker_of_sentence_transformers_keeps_its_head(tmp_path):
    write_model(tmp_path, ["one"])
    (tmp_path / "modules.json").write_text(json.dumps([module("Transformer")]))
    assert type(open_model(tmp_path)).__name__.endswith("ForSequenceClassification")


def folder(path, **files):
    write_head(SentenceHead(("mean",), [Dense(16, 4)], width=16), path)
    for name, content in files.items():
        (path / name.replace("__", "/")).with_suffix(".json").write_text(json.dumps(content))
    return path


def module(kind, path=""):
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules": [module("Transformer"), module("WordWeights", "1")]}, "has the modules Transformer, WordWeights"),
        ({"modules": [module("Router"), module("Normalize", "1")]}, "has the modules Router, Normalize: expected"),
        ({"modules": [module("Transformer", "0_T"), module("Pooling", "1_Pooling")]}, "has its encoder in '0_T'"),
        ({"modules": [module("Transformer"), module("Pooling", "../other")]}, "names folders outside it"),
        ({"modules": {"no": "list"}}, "modules.json of .* cannot be read"),
        ({"1_Pooling__config": {"word_embedding_dimension": 16}}, "asks for the pooling 'none'"),
        ({"1_Pooling__config": {"embedding_dimension": 16, "pooling_mode": "median"}}, "the pooling 'median'"),
        ({"1_Pooling__config": {"embedding_dimension": 12, "pooling_mode": "mean"}}, "of 12 dims that does not fit"),
        ({"1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False}}, "leaves the tokens of its prompt"),
        ({"2_Dense__config": {"in_features": 16, "out_features": 4, "activation_function": "os.system"}}, "2_Dense of"),
        ({"2_Dense__config": {"in_features": 16, "out_features": 5, "activation_function": "x"}}, "is not supported"),
    ],
)
def test_a_folder_with_other_modules_is_refused_in_a_sentence(files, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_head(folder(tmp_path, **files))


def test_a_folder_without_modules_has_no_head(tmp_path):
    assert read_head(write_model(tmp_path / "encoder")) is None
    assert read_head(Path(write_model(tmp_path / "classifier", ("bad", "good")))) is None


def test_a_head_of_another_width_than_its_encoder_is_refused(tmp_path):
    write_head(SentenceHead(("mean",), width=12), Path(write_model(tmp_path / "encoder")))
    with pytest.raises(UserError, match="pools states of 12 dims, and its encoder has 16"):
        open_model(tmp_path / "encoder")


def test_a_head_is_refused_on_a_model_that_has_another():
    classifier = tiny("bert", "ForSequenceClassification")
    with pytest.raises(UserError, match="expected an encoder without a head"):
        attach_head(classifier, head_for(classifier))
    model = with_head()
    with pytest.raises(UserError, match="has a sentence head already"):
        attach_head(model, head_for(model))


def test_the_way_back_changes_nothing_before_it_is_trained():
    states, mask = torch.randn(2, 3, 8), torch.ones(2, 3)
    head = SentenceHead(("mean",), width=8)
    back = head.with_way_back()
    torch.testing.assert_close(back(states, mask), head(states, mask))
    assert back.of_width(5).size == 8 and head.of_width(5).size == 5


def test_the_structure_of_a_cut_model_with_a_head_follows_from_its_plan():
    model = small(with_head(dtype=torch.float32), "hidden", "ffn")
    assert planned_structure(model).to_dict() == model.config.secateur


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "pooled"])
def test_save_pretrained_and_a_trainer_write_the_head_and_its_files(dense, tmp_path):
    model = with_head("bert", torch.float32, dense=dense)
    batch = inputs(model)
    for name, saved in (("dense", model), ("small", copy.deepcopy(small(model, "hidden", "ffn")))):
        trainer = HookedTrainer(saved, args=TrainingArguments(str(tmp_path / name), report_to=[], use_cpu=True))
        trainer.save_model(str(tmp_path / name / "trained"))
        saved.save_pretrained(tmp_path / name / "own")
        pickle.loads(pickle.dumps(saved)).save_pretrained(tmp_path / name / "pickled")
        for place in ("trained", "own", "pickled"):
            again = open_model(tmp_path / name / place)
            assert torch.equal(vectors(again, batch), vectors(saved, batch))
            weights = load_file(tmp_path / name / place / "model.safetensors")
            assert not any(key.startswith("sentence_head") for key in weights)
    assert torch.equal(vectors(load(tmp_path / "small" / "own"), batch), vectors(saved, batch))


def test_save_pretrained_writes_the_weights_of_the_head_that_it_is_given(tmp_path):
    model = with_head("bert", torch.float32)
    state = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    written = load_file(tmp_path / "2_Dense" / "model.safetensors")
    assert torch.equal(written["linear.weight"], state["sentence_head.dense.0.linear.weight"])


def test_weights_of_a_head_that_are_not_finite_are_refused(tmp_path):
    model = small(with_head("bert", torch.float32), "ffn")
    with torch.no_grad():
        head_of(model).dense[0].linear.bias[3] = float("nan")
    save(model, tmp_path)
    with pytest.raises(UserError, match=r"2_Dense/model\.safetensors is damaged: linear\.bias holds values that are"):
        load(tmp_path)


def test_a_checkpoint_of_a_trainer_has_the_weights_of_the_head_among_the_others(tmp_path):
    model = with_head("bert", torch.float32)
    for saved in (model, small(model, "ffn")):
        trainer = HookedTrainer(saved, args=TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
        trainer.save_model(str(tmp_path / "checkpoint-3"))
        assert load_file(tmp_path / "checkpoint-3" / "model.safetensors").keys() == saved.state_dict().keys()
        assert not (tmp_path / "checkpoint-3" / "modules.json").exists()


def test_uploading_a_model_with_a_head_while_it_is_saved_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"uploads before the sentence head is written: call push_to_hub of the model"):
        with_head("bert").save_pretrained(tmp_path / "model", push_to_hub=True)
    assert not (tmp_path / "model").exists()


def test_push_to_hub_uploads_the_files_of_the_head(monkeypatch):
    uploaded = {}
    repository = SimpleNamespace(create_repo=lambda name, **kwargs: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(hub, "hf_api", lambda: repository)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *args, **kwargs: SimpleNamespace(save=lambda path: 0))
    monkeypatch.setattr(
        PreTrainedModel,
        "_upload_modified_files",
        lambda self, folder, *args, **kwargs: uploaded.update({p.name: p for p in Path(folder).iterdir()}),
    )
    with_head("bert", torch.float32).push_to_hub("owner/name")
    assert {"model.safetensors", "modules.json", "1_Pooling", "2_Dense"} <= uploaded.keys()
