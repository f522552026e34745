"""Models and tokenizers by one name: dense and compact folders, finished runs, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_world import config, write_model
from tiny_models import tiny
from transformers import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForTokenClassification,
    BertLMHeadModel,
)

from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.run.stages.check import check_prunable
from secateur.surgery.checkpoint import save
from secateur.surgery.compact import Pruned
from secateur.surgery.cut import cut
from secateur.surgery.loaded_weights import check_whole
from secateur.surgery.opening import (
    auto_class_opened,
    check_vocabulary,
    model_folder,
    open_encoder,
    open_model,
    open_tokenizer,
    tokenizer_if_any,
)
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dense classifier, a bare encoder, and a run whose folder `model` is the classifier's cut."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "encoder")
    dense = open_model(write_model(root / "dense", ["bad", "good"]))
    small = cut(dense, Magnitude(Space(dense, "ffn")).plan(density=0.8))
    save(small, root / "run" / "model", tokenizer=open_tokenizer(root / "dense"))
    return root


def test_the_folder_of_a_run_stands_for_the_model_in_it(folders):
    assert model_folder(folders / "run") == folders / "run" / "model"
    assert model_folder(folders / "dense") == folders / "dense"
    assert model_folder("some/name") == Path("some/name")


def test_a_model_opens_with_its_own_head_in_fp32_and_for_evaluation(folders):
    dense, encoder, small = (open_model(folders / name) for name in ("dense", "encoder", "run"))
    assert type(dense).__name__.endswith("ForSequenceClassification") and type(encoder).__name__.endswith("Model")
    assert isinstance(small, Pruned)
    assert not any(model.training for model in (dense, encoder, small))
    assert {weight.dtype for weight in dense.parameters()} == {torch.float32}


def test_the_tokenizer_of_a_run_is_that_of_its_model(folders):
    assert open_tokenizer(folders / "run").get_vocab() == open_tokenizer(str(folders / "dense")).get_vocab()


def test_a_checkpoint_without_some_of_its_weights_is_refused(folders, tmp_path):
    write_model(tmp_path / "partial", ["bad", "good"])
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "partial" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the weights"):
        open_model(tmp_path / "partial")


@pytest.mark.parametrize("opens", [open_model, open_tokenizer])
def test_a_name_that_leads_nowhere_is_refused(opens, tmp_path):
    with pytest.raises(UserError, match="give a"):
        opens(str(tmp_path / "nothing"))


def change_weights(folder, change):
    weights = load_file(Path(folder) / "model.safetensors")
    change(weights)
    save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})


UNSUPPORTED = (
    BertForMultipleChoice,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertLMHeadModel,
)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_head_that_is_not_supported_is_refused_and_not_left_out(kind, tmp_path):
    kind(config()).save_pretrained(tmp_path)
    heads = "BertModel, BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering"
    with pytest.raises(UserError, match=rf"is a {kind.__name__}, whose head is not supported: give .*{heads}"):
        open_model(tmp_path)
    with pytest.raises(UserError, match=f"the head of {kind.__name__} is not supported"):
        Space(kind(config()), "ffn")


def test_the_encoder_of_an_unsupported_head_is_opened_where_only_that_is_asked_for(folders, tmp_path, caplog):
    BertForMaskedLM(config()).save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        assert type(open_encoder(tmp_path)).__name__.endswith("BertModel")
    assert "is a BertForMaskedLM, whose head is not supported: this is its encoder" in caplog.text
    caplog.clear()
    assert type(open_encoder(folders / "dense")).__name__.endswith("ForSequenceClassification")
    assert isinstance(open_encoder(folders / "run"), Pruned) and not caplog.text


@pytest.mark.parametrize(
    "key", ["bert.encoder.layer.0.attention.self.distance_embedding.weight", "adapter.down.weight"]
)
def test_weights_that_the_model_does_not_take_are_refused(key, tmp_path):
    write_model(tmp_path, ["bad", "good"])
    change_weights(tmp_path, lambda weights: weights.update({key: torch.ones(3, 4)}))
    with pytest.raises(UserError, match=f"1 weights that .*does not take .*{key}"):
        open_model(tmp_path)


def test_a_folder_without_files_of_a_tokenizer_has_none(folders, tmp_path):
    open_model(folders / "dense").save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="bare has no tokenizer that loads: give a model folder that holds one"):
        open_tokenizer(tmp_path / "bare")
    assert tokenizer_if_any(tmp_path / "bare") is None


def test_a_tokenizer_that_the_installed_library_cannot_read_is_refused_with_the_reason(folders, tmp_path):
    shutil.copytree(folders / "dense", tmp_path / "newer")
    path = tmp_path / "newer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "OfTomorrow"}}))
    with pytest.raises(
        UserError, match=r"newer has no tokenizer that loads \(data did not match .*\): give a model folder"
    ):
        open_tokenizer(tmp_path / "newer")
    assert tokenizer_if_any(tmp_path / "newer") is None


def test_a_tokenizer_of_more_tokens_than_embeddings_is_refused(folders):
    model, words = open_model(folders / "dense"), open_tokenizer(folders / "dense")
    check_vocabulary(words, model, "dense")
    words.add_tokens(["[NEW]"])
    with pytest.raises(UserError, match=r"dense has embeddings of 12 tokens.*'\[NEW\]' the number 12"):
        check_vocabulary(words, model, "dense")


def test_weights_of_the_encoder_are_never_left_over(tmp_path):
    BertForMaskedLM(config()).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update({"bert.encoder.layer.0.adapter.weight": torch.ones(3)}))
    with pytest.raises(UserError, match=r"does not take .*layer\.0\.adapter"):
        open_encoder(tmp_path)


def test_the_pooler_of_a_classifier_is_one_of_its_weights(tmp_path):
    write_model(tmp_path, ["bad", "good"])
    change_weights(tmp_path, lambda weights: weights.pop("bert.pooler.dense.weight"))
    with pytest.raises(UserError, match=r"lacks 1 of the weights .*bert\.pooler"):
        open_model(tmp_path)


def test_a_pooler_that_the_head_does_not_read_may_be_left_over(tmp_path):
    BertForTokenClassification(config()).save_pretrained(tmp_path)
    old = {"bert.pooler.dense.weight": torch.ones(16, 16), "bert.embeddings.position_ids": torch.arange(32)}
    change_weights(tmp_path, lambda weights: weights.update(old))
    assert open_model(tmp_path)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model"])
def test_what_published_checkpoints_of_a_family_hold_besides_may_be_left_over(head, tmp_path):
    name = "embeddings.word_embeddings._weight"
    prefix = "" if head == "Model" else "deberta."
    tiny("deberta-v2", head, dtype=torch.float32).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update({prefix + name: torch.zeros(50, 32)}))
    assert type(open_model(tmp_path)).__name__.endswith(head)
    with pytest.raises(UserError, match=f"does not take .*{name}"):
        check_whole(tiny("bert", head), {"missing_keys": (), "unexpected_keys": (prefix + name,)}, "a BERT")


def without_class(folder):
    """The folder, whose config names no class any more."""
    saved = json.loads((folder / "config.json").read_text())
    del saved["architectures"]
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


def test_a_config_without_the_name_of_a_class_is_that_of_an_encoder(tmp_path, caplog):
    write_model(tmp_path)
    assert type(open_model(without_class(tmp_path))).__name__.endswith("BertModel")
    assert auto_class_opened(tmp_path) == "AutoModel" and not caplog.text


@pytest.mark.parametrize("opens", [open_model, open_encoder])
def test_the_heads_of_pre_training_are_left_out_where_the_config_names_no_class(opens, tmp_path, caplog):
    tiny("deberta-v2", "ForSequenceClassification", dtype=torch.float32).save_pretrained(tmp_path)
    heads = ("lm_predictions.lm_head.bias", "mask_predictions.dense.weight", "fit_denses.0.weight")
    change_weights(tmp_path, lambda weights: weights.update({name: torch.zeros(5) for name in heads}))
    with caplog.at_level("WARNING"):
        model = opens(without_class(tmp_path))
    assert type(model).__name__.endswith("DebertaV2Model") and model.config.architectures == ["DebertaV2Model"]
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(weight, saved[f"deberta.{name}"]) for name, weight in model.state_dict().items())
    left_out = sum(not name.startswith("deberta.") for name in saved)
    assert f"its encoder, without {left_out} weights outside it (the first is " in caplog.text


def test_a_checkpoint_without_the_name_of_a_class_must_have_all_of_its_encoder(tmp_path):
    BertForMaskedLM(config()).save_pretrained(tmp_path)
    name = "bert.encoder.layer.0.output.dense.weight"
    change_weights(without_class(tmp_path), lambda weights: weights.pop(name))
    with pytest.raises(UserError, match="lacks 1 of the weights"):
        open_model(tmp_path)


@pytest.mark.parametrize("opens", [open_model, open_encoder, check_prunable])
def test_a_config_without_the_name_of_a_family_is_refused_with_the_key_that_it_lacks(opens, tmp_path):
    write_model(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(
        UserError, match=r'the config\.json of .* has no model_type, .*: add it, such as "model_type": "bert"'
    ):
        opens(str(tmp_path))
