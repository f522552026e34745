"""Rows of pieces are cut out of models, and the numbers in all their configs follow."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from kept_pieces import every_second, in_both_numbers
from law_assertions import everything
from small_world import WORDS, tokenizer, write_model
from tiny_models import inputs, random_masks, tiny
from transformers import AutoModelForSeq2SeqLM, BertForSequenceClassification, GenerationConfig

from secateur.budget.space import Space
from secateur.measure.inspection import inspect
from secateur.structure.binding import bind
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut, cut_moments
from secateur.surgery.masking import attached
from secateur.surgery.stock import plain
from secateur.surgery.uncut import uncut
from secateur.surgery.vocabulary import rows
from secateur.surgery.vocabulary.pruning import cut_vocabulary, with_pieces
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.surgery.vocabulary.token_numbers import token_numbers
from secateur.system.errors import UserError


def assert_same_model(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []


# Numbers in configs


def test_every_number_of_a_config_is_renumbered():
    model = tiny("bart", pad_token_id=4, bos_token_id=6, eos_token_id=[8, 20], forced_eos_token_id=8)
    model.config.task_specific_params = {"summarization": {"decoder_start_token_id": 30, "max_length": 20}}
    model.generation_config = GenerationConfig(
        pad_token_id=4,
        eos_token_id=[8, 20],
        decoder_start_token_id=8,
        bad_words_ids=[[10]],
        suppress_tokens=[12, 14],
        begin_suppress_tokens=[16],
        forced_decoder_ids=[[1, 18]],
        sequence_bias={(22, 24): -1.0},
        bos_token_id=-1,
        num_beams=2,
    )
    assert token_numbers(model) == {4, 6, 8, 20, 10, 30, 2, 12, 14, 16, 18, 22, 24}
    small = cut_rows(model, Vocabulary(50, tuple(range(0, 50, 2))))
    config, generation = small.config, small.generation_config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (25, 2, 3, [4, 10])
    assert (config.forced_eos_token_id, config.decoder_start_token_id, generation.bad_words_ids) == (4, 1, [[5]])
    assert config.task_specific_params == {"summarization": {"decoder_start_token_id": 15, "max_length": 20}}
    assert (generation.pad_token_id, generation.eos_token_id, generation.decoder_start_token_id) == (2, [4, 10], 4)
    assert (generation.suppress_tokens, generation.begin_suppress_tokens) == ([6, 7], [8])
    assert (generation.forced_decoder_ids, generation.sequence_bias) == ([[1, 9]], {(11, 12): -1.0})
    assert (generation.bos_token_id, generation.num_beams) == (-1, 2)
    assert model.config.pad_token_id == 4 and model.generation_config.suppress_tokens == [12, 14]
    assert small.get_input_embeddings().padding_idx == 2 and small.get_input_embeddings().num_embeddings == 25


def test_nested_configs_and_both_sizes_follow():
    small = cut_rows(tiny("t5"), Vocabulary(50, (0, 1, 7)))
    assert [part.config.vocab_size for part in (small, small.encoder, small.decoder)] == [3, 3, 3]
    assert small.lm_head.out_features == 3 and small.lm_head.weight is small.shared.weight
    small = cut_rows(tiny("marian"), Vocabulary(50, (0, 2, 7)))
    assert (small.config.vocab_size, small.config.decoder_vocab_size) == (3, 3)
    assert small.final_logits_bias.shape == (1, 3)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_all_pieces_up_to_the_padding_are_needed_where_positions_are_counted_from_it(kind):
    model = tiny(kind, pad_token_id=1, bos_token_id=2, eos_token_id=2)
    assert token_numbers(model) == {0, 1, 2}
    with pytest.raises(UserError, match=f"a '{kind}' model counts positions from the number of its padding token, 1"):
        cut_rows(model, Vocabulary(50, (1, 2, 3)))
    assert cut_rows(tiny("bert", pad_token_id=1), Vocabulary(50, (1, 2, 3))).config.pad_token_id == 0


# What is refused


def test_what_cannot_be_cut_is_refused(monkeypatch):
    model, vocabulary = tiny("bert"), Vocabulary(50, (0, 3, 4))
    with pytest.raises(UserError, match="of 49 pieces, and the model has 50"):
        cut_rows(model, Vocabulary(49, (0, 3)))
    with pytest.raises(UserError, match="does not keep piece 0, which is needed"):
        cut_rows(model, Vocabulary(50, (3, 4)))
    with pytest.raises(UserError, match="the decoder of this 'marian' model has word embeddings of its own"):
        cut_rows(tiny("marian", shape=1), Vocabulary(50, (0, 2, 3)))
    space = Space(model, "ffn")
    with attached(model, space, space.ones()), pytest.raises(UserError, match="masks are attached"):
        cut_rows(model, vocabulary)
    with pytest.raises(UserError, match="was cut already"):
        cut_rows(cut(model, Plan.of(space, space.ones())), vocabulary)
    monkeypatch.setattr(rows, "bind", lambda model: replace(bind(model), vocabularies={}))
    with pytest.raises(UserError, match="architecture does not name them with rows='vocabulary'"):
        cut_rows(model, vocabulary)


# In plans


@pytest.fixture
def planned():
    """A model, and a plan of some of its units and pieces."""
    model = tiny("bert")
    space = Space(model, "ffn", "hidden")
    return model, Plan.of(space, random_masks(space), vocabulary=every_second(model))


def test_a_plan_cuts_a_model_before_and_after_its_vocabulary_was_cut(planned):
    model, plan = planned
    narrow = cut_rows(model, plan.vocabulary)
    small = cut(model, plan)
    assert_same_model(cut(narrow, plan), small)
    assert Plan.from_dict(small.plan, model).vocabulary == Plan.from_dict(small.plan, narrow).vocabulary
    for size in (49, 20):
        with pytest.raises(UserError, match=rf"keeps {len(plan.vocabulary)} of 50 pieces, this model has {size}"):
            cut(tiny("bert", vocab_size=size), plan)


def test_moments_of_removed_rows_are_removed(planned):
    model, plan = planned
    moments = {name: {"exp_avg": torch.randn_like(p), "step": torch.ones(())} for name, p in model.named_parameters()}
    words = "bert.embeddings.word_embeddings.weight"
    narrow = deepcopy(moments)
    narrow[words]["exp_avg"] = moments[words]["exp_avg"][list(plan.vocabulary.kept)]
    expected = cut_moments(cut_rows(model, plan.vocabulary), plan, narrow)
    found, small = cut_moments(model, plan, moments), dict(cut(model, plan).named_parameters())
    for name, state in found.items():
        assert torch.equal(state["exp_avg"], expected[name]["exp_avg"])
        assert state["exp_avg"].shape == small[name].shape


def test_a_compact_model_loses_pieces_again(planned):
    model, plan = planned
    small, kept = cut(model, plan).train(), plan.vocabulary.kept
    second = Vocabulary(len(kept), (0, *range(3, len(kept))))
    again = with_pieces(small, second)
    assert again.training and again.plan["vocabulary"] == Vocabulary(50, tuple(kept[n] for n in second.kept)).to_dict()
    assert again.plan["groups"] == small.plan["groups"]
    old, new = in_both_numbers(inputs(again), second)
    mine, theirs = everything(again.eval(), new), everything(small.eval(), old)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    direct = cut(model, Plan.from_dict(again.plan, model))
    assert_same_model(direct, again)
    dense, back = uncut(again)
    assert dense.config.vocab_size == len(second) and back.vocabulary.size == 50


def test_options_without_effect_are_saved_as_they_were_published(tmp_path):
    """Transformers refuses them in a generation config that was changed since it was loaded."""
    tiny("t5").save_pretrained(tmp_path / "dense")
    path = tmp_path / "dense" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.7, "suppress_tokens": [9]}))
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "dense")
    small = with_pieces(model, Vocabulary(50, (0, 1, 9)))
    save(small, tmp_path / "small")
    saved = GenerationConfig.from_pretrained(tmp_path / "small")
    assert (saved.temperature, saved.suppress_tokens) == (0.7, [2])
    small.generation_config.top_p = 0.5  # a change of the user's own is refused as ever
    with pytest.raises(ValueError, match="top_p"):
        save(small, tmp_path / "small")


def test_a_generation_config_goes_with_a_compact_model():
    model = tiny("t5")
    model.generation_config.num_beams, model.generation_config.suppress_tokens = 3, [9]
    space = Space(model, "ffn")
    small = with_pieces(cut(model, Plan.of(space, random_masks(space))), Vocabulary(50, (0, 1, 9)))
    assert (small.generation_config.num_beams, small.generation_config.suppress_tokens) == (3, [2])


def test_a_uniform_cut_with_fewer_pieces_is_a_stock_model():
    model = tiny("bert")
    space = Space(model, "ffn")
    masks = space.ones()
    for layer in "01":
        masks[space.slices[f"{layer}.ffn"]][:8] = 0.0
    small = cut(model, Plan.of(space, masks, vocabulary=every_second(model)))
    stock, batch = plain(small), in_both_numbers(inputs(model), every_second(model))[1]
    assert stock.config.vocab_size == small.config.vocab_size < 50
    torch.testing.assert_close(everything(stock, batch), everything(small, batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": 50}, "exactly the keys size"),
        ({"size": 50, "kept": [[0, 50]]}, r"\[0, 50\]"),
        ({"size": 50, "kept": []}, "at least one piece"),
        ({"size": 60, "kept": [[0, 3]]}, "keeps 4 of 60 pieces, this model has 50"),
    ],
)
def test_a_vocabulary_edited_by_hand_is_refused(planned, data, message):
    model, plan = planned
    with pytest.raises(UserError, match=message):
        Plan.from_dict(plan.to_dict(plan.space(model)) | {"vocabulary": data}, model)


def test_the_parameters_of_a_compact_model_are_counted_beside_all_pieces(planned):
    model, plan = planned
    counted = inspect(cut(model, plan))
    whole = counted.parameters["model"]
    assert (whole.total, whole.density) == (model.num_parameters(), pytest.approx(plan.achieved["model"], rel=1e-12))
    assert whole.kept == counted.stored and counted.padding == 0


# With a tokenizer


def test_a_model_and_its_tokenizer(tmp_path):
    model, pieces = BertForSequenceClassification.from_pretrained(write_model(tmp_path, ["bad", "good"])), tokenizer()
    texts = ["a fine film", "a dull film and a fine film"]
    small, small_tokenizer, vocabulary = cut_vocabulary(model, pieces, texts)
    assert [WORDS[number] for number in vocabulary.kept] == [*WORDS[:6], "dull", "film", "and"]
    assert cut_vocabulary(model, pieces, texts, min_count=3)[2].kept == (0, 1, 2, 3, 4, 9)
    before, after = (one(texts, padding=True, return_tensors="pt") for one in (pieces, small_tokenizer))
    assert before["input_ids"].tolist() == [[vocabulary.kept[n] for n in row] for row in after["input_ids"].tolist()]
    assert torch.equal(model.eval()(**before).logits, small.eval()(**after).logits)
    with pytest.raises(UserError, match="cannot be cut: expected a fast tokenizer"):
        cut_vocabulary(model, object(), texts)
