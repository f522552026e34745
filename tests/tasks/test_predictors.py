"""What a model says of texts, beside its outputs for each text alone."""

from functools import partial
from types import SimpleNamespace

import pytest
import small_tokenizers
import torch
from small_world import config, tokenizer
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
)

from secateur.surgery.opening import open_model
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import SentenceHead, Settings
from secateur.system.errors import UserError
from secateur.tasks import TASKS, generation
from secateur.tasks.predictors import Asked

LONG, SHORT = "good film good book bad film", "bad film"


def asked(model, **options):
    return Asked(model.eval(), tokenizer(), 24, options)


def made(kind, seed=0, **head):
    torch.manual_seed(seed)
    model = kind(config(**head))
    torch.nn.init.normal_(model.get_input_embeddings().weight)  # so that texts differ
    return model


def logits(model, *texts):
    with torch.inference_mode():
        return model(**tokenizer()(*texts, return_tensors="pt")).logits[0]


def test_the_class_is_the_most_probable_one_whatever_the_batch():
    model = made(BertForSequenceClassification, id2label={0: "no", 1: "yes", 2: "so"})
    found = TASKS.get("classification").predictor(asked(model), [[LONG], [SHORT]])
    for text, one in zip((LONG, SHORT), found, strict=True):
        expected = logits(model, text).softmax(-1)
        assert list(one["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert one["label"] == ("no", "yes", "so")[expected.argmax()] and one["score"] == max(one["scores"].values())


@pytest.mark.parametrize("task", ["tokens", "images", "translation", "summarisation", "language", "embedding"])
def test_tasks_of_single_texts_refuse_pairs(task):
    with pytest.raises(UserError, match=r"expected one (text|image) for each input, got 2"):
        TASKS.get(task).predictor(asked(made(BertForSequenceClassification)), [[LONG, SHORT]])


@pytest.mark.parametrize("inputs", [[[LONG, SHORT], [LONG]], [[LONG], [LONG, SHORT]], [[LONG, SHORT, LONG]]])
def test_inputs_have_one_text_each_or_two_each(inputs):
    with pytest.raises(UserError, match="give one text for every input, or two for every one"):
        TASKS.get("multilabel").predictor(asked(made(BertForSequenceClassification)), inputs)


def test_outputs_of_one_name_are_told_apart_by_their_numbers():
    model = made(BertForSequenceClassification, id2label={0: "crane", 1: "other", 2: "crane"})
    with torch.no_grad():
        model.classifier.bias[0] = 9.0
    (one,) = TASKS.get("classification").predictor(asked(model), [[LONG]])
    expected = logits(model, LONG).softmax(-1).tolist()
    assert one["scores"] == pytest.approx(
        dict(zip(("crane (0)", "other", "crane (2)"), expected, strict=True)), abs=1e-6
    )
    assert one["label"] == "crane (0)" and one["score"] == one["scores"]["crane (0)"] > 0.9
    (several,) = TASKS.get("multilabel").predictor(asked(model), [[LONG]])
    assert list(several["scores"]) == ["crane (0)", "other", "crane (2)"] and "crane (0)" in several["labels"]


@pytest.mark.parametrize("task", ["classification", "reranking"])
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
def test_one_output_is_a_probability_unless_it_is_a_regression(task, problem_type):
    model = made(BertForSequenceClassification, num_labels=1, problem_type=problem_type)
    (pair,) = TASKS.get(task).predictor(asked(model), [[LONG, SHORT]])
    logit = logits(model, LONG, SHORT)
    expected = logit if problem_type == "regression" else logit.sigmoid()
    assert pair["score"] == pytest.approx(float(expected), abs=1e-6)
    if task == "classification":  # a run on numbers says so of a model whose config does not
        (pair,) = TASKS.get(task).predictor(asked(model, number=True), [[LONG, SHORT]])
        assert pair["score"] == pytest.approx(float(logit), abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"problem_type": "multi_label_classification"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}, "problem_type": "multi_label_classification"},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
@pytest.mark.parametrize("beside", [None, torch.nn.Identity, torch.nn.Sigmoid])
def test_a_relevance_is_what_sentence_transformers_gives(settings, beside, tmp_path):
    """Its activation is beside the config or in it, under a key of today or of versions before 4."""
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    folder = tmp_path / "plain"
    made(BertForSequenceClassification, num_labels=1, **settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if beside is not None:
        cross_encoder(str(folder), activation_fn=beside()).save_pretrained(str(folder := tmp_path / "own"))
    expected = cross_encoder(str(folder)).predict([(LONG, SHORT)])
    (relevance,) = TASKS.get("reranking").predictor(asked(open_model(folder)), [[LONG, SHORT]])
    assert relevance["score"] == pytest.approx(float(expected[0]), abs=1e-6)


def test_an_activation_that_is_none_is_refused():
    model = made(BertForSequenceClassification, num_labels=1, sentence_transformers={"activation_fn": "my.own.Scale"})
    with pytest.raises(UserError, match=r"names the activation 'my\.own\.Scale': expected one of torch\.nn, Identity"):
        TASKS.get("reranking").predictor(asked(model), [[LONG, SHORT]])


def test_label_sets_have_every_label_above_a_half():
    model = made(BertForSequenceClassification, id2label=dict(enumerate("abcdef")))
    (one,) = TASKS.get("multilabel").predictor(asked(model), [[LONG]])
    expected = logits(model, LONG).sigmoid().tolist()
    assert list(one["scores"].values()) == pytest.approx(expected, abs=1e-6)
    assert one["labels"] == [name for name, score in zip("abcdef", expected, strict=True) if score > 0.5]


def test_every_word_gets_the_tag_of_its_first_token_and_none_beyond_the_length():
    model = made(BertForTokenClassification, id2label={0: "O", 1: "B-X", 2: "I-X"})
    (one,) = TASKS.get("tokens").predictor(asked(model), [[LONG]])
    best = logits(model, LONG).argmax(-1).tolist()
    assert one["words"] == LONG.split()
    assert one["tags"] == [("O", "B-X", "I-X")[tag] for tag in best[1:-1]]
    (cut,) = TASKS.get("tokens").predictor(asked(model)._replace(max_length=5), [[LONG]])
    assert cut["tags"][3:] == [None] * 3 and None not in cut["tags"][:3]


def test_an_answer_is_a_part_of_its_context():
    model = made(BertForQuestionAnswering)
    (one,) = TASKS.get("questions").predictor(asked(model, max_answer_length=2, n_best=3), [[SHORT, LONG]])
    assert one["answer"] == LONG[one["start"] : one["end"]] and 1 <= len(one["answer"].split()) <= 2


def test_a_vector_is_that_of_the_text_alone():
    model = made(BertModel)
    attach_head(model, SentenceHead(("mean",), (), True, width=model.config.hidden_size))
    _, short = TASKS.get("embedding").predictor(asked(model), [[LONG], [SHORT]])
    with torch.inference_mode():
        expected = model(**tokenizer()(SHORT, return_tensors="pt")).sentence_embedding[0]
    assert short["vector"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_prompts_are_lowered_with_their_texts():
    model = made(BertModel)
    settings = Settings({"own": "GOOD "}, "own", "cosine", None, lower_case=True)
    attach_head(model, SentenceHead(("mean",), (), True, width=model.config.hidden_size, settings=settings))
    (found,) = TASKS.get("embedding").predictor(asked(model), [["FILM"]])
    with torch.inference_mode():
        expected = model(**tokenizer()("good film", return_tensors="pt")).sentence_embedding[0]
    assert found["vector"] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("task", "kind", "texts"),
    [
        ("classification", BertForSequenceClassification, 1),
        ("tokens", BertForTokenClassification, 1),
        ("questions", BertForQuestionAnswering, 2),
        ("reranking", BertForSequenceClassification, 2),
    ],
)
def test_no_more_tokens_are_read_than_the_model_has_positions(task, kind, texts):
    model, text = made(kind, num_labels=1 if task == "reranking" else 2), " ".join(["film"] * 50)
    own = Asked(model.eval(), tokenizer(max_length=10**30), 384, {})
    found = TASKS.get(task).predictor(own, [[SHORT, text][-texts:]])
    within = TASKS.get(task).predictor(own._replace(max_length=32), [[SHORT, text][-texts:]])
    assert found == within and len(found) == 1


def translator():
    """A small Marian of random weights that never ends a text, and its tokenizer."""
    words = tokenizer()
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 32}
    ends = {"pad_token_id": words.pad_token_id, "eos_token_id": words.sep_token_id, "forced_eos_token_id": None}
    torch.manual_seed(0)
    model = MarianMTModel(
        MarianConfig(vocab_size=len(words), decoder_start_token_id=words.pad_token_id, **ends, **sizes)
    )
    words.model_input_names = ["input_ids", "attention_mask"]
    return model, words


def test_a_generated_text_takes_the_options_of_the_task():
    model, words = translator()
    own = Asked(model, words, 24, {"max_new_tokens": 3, "beams": 1, "reference": "x"})
    (one,) = TASKS.get("translation").predictor(own, [[LONG]])
    assert list(one) == ["text"] and len(one["text"].split()) <= 3


def test_a_summary_has_at_most_the_tokens_of_the_task(monkeypatch):
    asked_for = []
    monkeypatch.setattr(generation, "generate", lambda *inputs, **options: asked_for.append(options) or [""])
    summaries = TASKS.get("summarisation")
    for options in ({}, {"beams": 1}, {"max_new_tokens": 3}):
        summaries.predictor(Asked(*translator(), 24, options), [[LONG]])
    assert [own["max_new_tokens"] for own in asked_for] == [summaries.usual_tokens, summaries.usual_tokens, 3]


def test_no_answer_is_one_only_if_it_may_be_and_exceeds_the_best_by_more_than_the_threshold():
    model, answers = made(BertForQuestionAnswering), TASKS.get("questions").predictor
    (plain,) = answers(asked(model), [["film", LONG]])
    assert plain["answer"]
    for threshold, none in ((-1000.0, True), (1000.0, False)):
        (found,) = answers(asked(model, nothing=True, null_threshold=threshold), [["film", LONG]])
        assert (not found["answer"]) == none


def test_how_a_model_is_asked_is_told_by_the_data():
    one, two = (SimpleNamespace(columns=names, head=dict) for names in (("text",), ("premise", "hypothesis")))
    for name in ("classification", "multilabel"):
        told = TASKS.get(name).predictor.told
        assert (told(one), told(two)) == ({}, {"pairs": True})
    kinds = {"regression": {"number": True}, "multi_label_classification": {}}
    for problem_type, own in kinds.items():
        task = SimpleNamespace(columns=("text",), head=partial(dict, problem_type=problem_type))
        assert TASKS.get("classification").predictor.told(task) == own
    told = TASKS.get("questions").predictor.told
    assert [told(SimpleNamespace(unanswerable=value)) for value in (True, False)] == [{"nothing": True}, {}]
    assert TASKS.get("tokens").predictor.told(one) == {}


def test_a_continuation_is_what_the_model_generates_after_the_last_tokens():
    words, sizes = tokenizer(), {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), num_attention_heads=2, eos_token_id=None, **sizes))
    ids = words(LONG, add_special_tokens=False, return_tensors="pt")["input_ids"][:, -3:]
    wanted = model.generate(ids, do_sample=False, max_new_tokens=4)[0, 3:]
    own = Asked(model, words, 3, {"max_new_tokens": 4})
    first, again = TASKS.get("language").predictor(own, [[LONG], [LONG]])
    assert first == again == {"text": words.decode(wanted, skip_special_tokens=True)}
    model.generation_config.update(num_beams=3, num_return_sequences=2, return_dict_in_generate=True)
    assert TASKS.get("language").predictor(own, [[LONG]]) == [first]
    model.config.max_position_embeddings = 7  # four of them for what follows
    assert TASKS.get("language").predictor(own._replace(max_length=9), [[LONG]]) == [first]


def test_a_tagger_with_a_slow_tokenizer_is_refused(monkeypatch):
    monkeypatch.setattr(type(tokenizer()), "is_fast", False)
    with pytest.raises(UserError, match="give a model with a fast tokenizer"):
        TASKS.get("tokens").predictor(asked(made(BertForTokenClassification)), [[LONG]])


def test_a_continuation_stops_at_the_strings_of_the_generation_config():
    words, sizes = small_tokenizers.roberta(), {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), num_attention_heads=2, eos_token_id=None, **sizes))
    own = Asked(model, words, 3, {"max_new_tokens": 4})
    ids = words(LONG, add_special_tokens=False, return_tensors="pt")["input_ids"][:, -3:]
    pieces = [words.decode(token) for token in model.generate(ids, do_sample=False, max_new_tokens=4)[0, 3:]]
    assert pieces[1] not in pieces[0]
    model.generation_config.update(stop_strings=[pieces[1]])
    assert TASKS.get("language").predictor(own, [[LONG]]) == [{"text": "".join(pieces[:2])}]


def test_what_is_no_input_is_refused():
    classes, answers = (TASKS.get(name).predictor for name in ("classification", "questions"))
    model = made(BertForSequenceClassification)
    for predictor, inputs, words in (
        (classes, [], "no text to predict for"),
        (classes, [[LONG], [" "]], "a text is empty"),
        (answers, [[LONG]], "expected question and context for each input, got 1 texts"),
    ):
        with pytest.raises(UserError, match=words):
            predictor(asked(model), inputs)


def test_every_task_of_the_package_predicts():
    assert [name for name, kind in TASKS.all().items() if kind.predictor is None] == []
