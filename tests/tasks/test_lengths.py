"""Lengths within a model's positions, and tokenizers that stay as they came."""

import json

import pytest
from small_world import config, tokenizer, write_data, write_questions, write_sentences
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, BartConfig
from transformers import BartForConditionalGeneration as Bart

from secateur.measure.evaluation import encoded, scores
from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks.generation import generate
from secateur.tasks.questions import answer
from secateur.tasks.rows import check_length

WRITERS = {"classification": write_data, "tokens": write_sentences, "questions": write_questions}
SUFFIXES = {"classification": "csv"}


def task(name, folder):
    return TASKS.get(name).from_data(
        str(WRITERS[name](folder / f"data.{SUFFIXES.get(name, 'jsonl')}")), metric=None, seed=0, rows=None
    )


def without_limit():
    words = tokenizer()
    words.model_max_length = int(1e30)
    return words


def test_rows_beyond_the_positions_are_refused_where_the_tokenizer_has_no_limit(tmp_path):
    words, model = without_limit(), AutoModelForSequenceClassification.from_config(config(num_labels=2))
    limit = model.config.max_position_embeddings
    with pytest.raises(UserError, match=f"max_length is {limit + 1}: give at most {limit}, which the model takes"):
        check_length(limit + 1, words, model)
    check_length(limit, words, model)
    rows = [json.dumps({"text": "film " * 2 * limit, "label": number % 2}) for number in range(20)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows))
    long = TASKS.get("classification").from_data(str(tmp_path / "long.jsonl"))
    with pytest.raises(UserError, match=f"give at most {limit}"):
        scores(model, long, encoded(long, "validation", words, 2 * limit), words)


def test_answers_and_generated_texts_stay_within_the_positions():
    words = without_limit()
    model = AutoModelForQuestionAnswering.from_config(config())
    with pytest.raises(UserError, match="max_length is 9999: give at most"):
        answer(model, words, "a film", "a fine film", max_length=9999)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = Bart(BartConfig(vocab_size=len(words), encoder_attention_heads=2, decoder_attention_heads=2, **sizes))
    with pytest.raises(UserError, match="max_length is 9999: give at most 1024"):
        generate(bart, words, ["a film"], max_length=9999)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("own", [False, True])
def test_encoding_leaves_truncation_and_padding_as_they_came(tmp_path, name, own):
    words = tokenizer()
    backend = words.backend_tokenizer
    if own:
        backend.enable_truncation(7, stride=2)
        backend.enable_padding(length=9, pad_id=0)
    before = backend.truncation, backend.padding
    made = task(name, tmp_path)
    assert len(made.encode(made.splits["train"], words, 12)) > 0
    assert (backend.truncation, backend.padding) == before
    assert encoded(made, "validation", words, 12)
    assert (backend.truncation, backend.padding) == before
