"""A tokenizer with fewer pieces: its numbers and settings, in memory and after it was saved and loaded."""

import json

import pytest
from small_tokenizers import KINDS, sentences
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, PythonBackend

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.counting import kept_pieces, text_counts
from secateur.surgery.vocabulary.tokenizer import content_of, cut_tokenizer
from secateur.system.errors import UserError

TEXTS = sentences(1, 40)
OTHERS = sentences(2, 40)
PAIR = {"text": TEXTS[:20], "text_pair": OTHERS[:20], "padding": True, "truncation": True, "max_length": 24}


def cut(tokenizer, texts=TEXTS):
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, texts, len(tokenizer)))
    return cut_tokenizer(tokenizer, vocabulary), vocabulary


@pytest.mark.parametrize("name", KINDS)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    tokenizer, _ = cut(KINDS[name]())
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(tokenizer) is type(KINDS[name]())
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert dict(loaded(**PAIR)) == dict(tokenizer(**PAIR))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == tokenizer.model_max_length
    again, vocabulary = cut(loaded)  # a tokenizer that was cut and loaded can be cut
    assert vocabulary.kept == tuple(range(len(loaded)))
    assert dict(again(**PAIR)) == dict(loaded(**PAIR))


@pytest.mark.parametrize("name", KINDS)
def test_templates_and_special_tokens_have_the_new_numbers(name):
    before = KINDS[name]()
    after, vocabulary = cut(before)
    assert after.special_tokens_map == before.special_tokens_map
    assert after.all_special_ids == vocabulary.renumbered(before.all_special_ids)
    flags = {vocabulary.numbers[number]: repr(token) for number, token in before.added_tokens_decoder.items()}
    assert {number: repr(token) for number, token in after.added_tokens_decoder.items()} == flags
    old, new = before(TEXTS, TEXTS, padding=True), after(TEXTS, TEXTS, padding=True)
    assert new["input_ids"] == [vocabulary.renumbered(row) for row in old["input_ids"]]
    assert new["attention_mask"] == old["attention_mask"]


def test_the_original_is_not_changed():
    tokenizer = KINDS["roberta"]()
    before = content_of(tokenizer), str(tokenizer)
    cut(tokenizer)
    assert (content_of(tokenizer), str(tokenizer)) == before


def test_settings_in_memory_stay():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=KINDS["bert"]().backend_tokenizer, pad_token="[PAD]")
    tokenizer.padding_side, tokenizer.chat_template, tokenizer.model_max_length = "left", "{{ messages }}", 77
    smaller, _ = cut(tokenizer)
    assert (smaller.padding_side, smaller.chat_template, smaller.model_max_length) == ("left", "{{ messages }}", 77)


def test_padding_truncation_and_added_tokens_of_the_backend_stay(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=KINDS["mpnet"]().backend_tokenizer, pad_token="[UNK]")
    tokenizer.add_tokens([AddedToken("<twice>", lstrip=True, single_word=True), "<once>"])
    number = tokenizer.convert_tokens_to_ids("[UNK]")
    tokenizer.backend_tokenizer.enable_padding(pad_id=number, pad_token="[UNK]", length=20)
    tokenizer.backend_tokenizer.enable_truncation(20, stride=2)
    smaller, vocabulary = cut(tokenizer)
    assert (smaller.backend_tokenizer.padding, smaller.backend_tokenizer.truncation) == (
        {**tokenizer.backend_tokenizer.padding, "pad_id": vocabulary.numbers[number]},
        tokenizer.backend_tokenizer.truncation,
    )
    assert [smaller.convert_tokens_to_ids(token) for token in ("<twice>", "<once>")] == [
        len(vocabulary) - 2,
        len(vocabulary) - 1,
    ]
    assert smaller.added_tokens_decoder[len(vocabulary) - 2].single_word


def test_files_with_the_old_pieces_are_forgotten(tmp_path):
    KINDS["t5"]().save_pretrained(tmp_path / "old")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "old")
    loaded.vocab_file = str(tmp_path / "old" / "spiece.model")
    (tmp_path / "old" / "spiece.model").write_bytes(b"")
    smaller, _ = cut(loaded)
    assert not smaller.can_save_slow_tokenizer
    assert "tokenizer_file" not in smaller.init_kwargs
    smaller.save_pretrained(tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    settings = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "T5Tokenizer"


# What is refused


class Slow(PythonBackend):
    vocab_size = 1

    def get_vocab(self):
        return {"a": 0}


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="a Slow cannot be cut: expected a fast tokenizer"):
        cut_tokenizer(Slow(), Vocabulary(1, (0,)))


@pytest.mark.parametrize("name", KINDS)
def test_a_vocabulary_without_a_needed_piece_is_refused(name):
    tokenizer = KINDS[name]()
    _, vocabulary = cut(tokenizer)
    lost = tokenizer.unk_token_id if name == "words" else tokenizer.convert_tokens_to_ids("s")
    if name == "roberta":
        lost = tokenizer.eos_token_id
    with pytest.raises(UserError, match=f"does not keep piece {lost}, which is needed"):
        cut_tokenizer(tokenizer, Vocabulary(vocabulary.size, tuple(n for n in vocabulary.kept if n != lost)))


def test_merges_without_their_parts_are_refused():
    tokenizer = KINDS["roberta"]()
    _, least = cut(tokenizer, [])
    whole = tokenizer.convert_tokens_to_ids(max(tokenizer.get_vocab(), key=len))
    with pytest.raises(UserError, match="which is needed"):
        cut_tokenizer(tokenizer, Vocabulary(least.size, tuple(sorted({*least.kept, whole}))))


def test_added_tokens_that_would_move_are_refused():
    """The library gives added tokens the numbers after its count of the other pieces, which may have gaps."""
    pieces = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "b": 3}, unk_token="[UNK]"))
    pieces.add_special_tokens(["<s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]")
    with pytest.raises(UserError, match="the piece '<s>' would get another number than its row"):
        cut_tokenizer(tokenizer, Vocabulary(4, (0, 1, 3)))


def test_an_unknown_post_processor_is_refused(monkeypatch):
    tokenizer = KINDS["bert"]()
    monkeypatch.setattr("secateur.surgery.vocabulary.content.PROCESSORS", {"ByteLevel": None})
    with pytest.raises(UserError, match="post-processor 'TemplateProcessing' cannot be cut: expected one of ByteLevel"):
        cut(tokenizer)
