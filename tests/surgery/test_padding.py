"""Decoders that classify, whose config names no padding token while their tokenizer has one, as published ones do."""

import pytest
import torch
from small_world import WORDS, recipe_values, tokenizer, write_data
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.measure.bench import measure
from secateur.measure.random_inputs import padded_inputs
from secateur.methods.magnitude import Magnitude
from secateur.run import pipeline, recipe
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.opening import open_model
from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks.classification import Classification
from secateur.tasks.predictors import Asked

TEXTS = ("a fine film and a good book", "bad film")


def decoder(head="ForSequenceClassification"):
    """Its vocabulary has the end of a text besides, which transformers gives every tokenizer of a Qwen2."""
    model = tiny("qwen2", head, dtype=torch.float32, vocab_size=len(WORDS) + 1, pad_token_id=None)
    model.config.id2label = {0: "bad", 1: "good"}
    return model


def write(folder, model):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "data.csv")


def logits(model, *texts):
    encoded = tokenizer()(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model.eval()(**encoded).logits


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForCausalLM"])
def test_a_batch_has_the_logits_of_its_texts_alone(head, data, tmp_path):
    task = Classification.from_data(data, metric=None, seed=0, rows=None)
    model = task.load_model(write(tmp_path, decoder(head)))
    assert model.config.pad_token_id == tokenizer().pad_token_id
    torch.testing.assert_close(logits(model, *TEXTS), torch.cat([logits(model, text) for text in TEXTS]))


def test_the_padding_token_stays_with_the_cut_model(tmp_path):
    model = open_model(write(tmp_path / "dense", decoder()))
    assert model.config.pad_token_id == 0
    save(cut(model, Magnitude(Space(model, "ffn")).plan(density=0.9)), tmp_path / "small")
    assert open_model(tmp_path / "small").config.pad_token_id == 0


def test_a_run_prunes_a_decoder_with_a_teacher_that_has_no_tokenizer(data, tmp_path):
    decoder().save_pretrained(tmp_path / "teacher")
    write(tmp_path / "base", decoder("ForCausalLM"))
    values = recipe_values(str(tmp_path / "base"), data) | {"target.density": 0.8, "distillation.check_teacher": False}
    pipeline.run(recipe.make(values | {"teacher": str(tmp_path / "teacher")}), tmp_path / "run")
    assert open_model(tmp_path / "run").config.pad_token_id == 0


def test_several_rows_are_refused_where_nothing_names_a_padding_token(tmp_path):
    model = decoder()
    model.save_pretrained(tmp_path)
    model = open_model(tmp_path)
    match = "expected a padding token for a batch of 2 rows, and the config of Qwen2ForSequenceClassification has no"
    with pytest.raises(UserError, match=match):
        measure(model, batch=2, tokens=5)
    with pytest.raises(UserError, match="no pad_token_id: set it"):
        padded_inputs(model)
    assert measure(model, batch=1, tokens=5, repeats=1, warmup=0).latency_ms > 0


def test_an_encoder_needs_no_padding_token_in_its_config():
    bert = tiny("bert", dtype=torch.float32)
    bert.config.pad_token_id = None
    assert measure(bert, batch=2, tokens=5, repeats=1, warmup=0).latency_ms > 0


def test_a_prediction_of_several_texts_needs_a_tokenizer_that_pads():
    bare = tokenizer()
    bare.pad_token = None
    asked = Asked(decoder(), bare, 24, {})
    predictor = TASKS.get("classification").predictor
    (alone,) = predictor(asked, [TEXTS[:1]])
    expected = logits(asked.model, TEXTS[0]).softmax(-1)[0]
    assert list(alone["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    with pytest.raises(UserError, match="the tokenizer has no padding token to fill batches with"):
        predictor(asked, [(text,) for text in TEXTS])
