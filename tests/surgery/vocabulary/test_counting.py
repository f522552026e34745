"""Which pieces are counted and kept, and how many texts a vocabulary covers."""

import json

import pytest
import torch
from small_tokenizers import KINDS, sentences
from tiny_models import tiny

from secateur.surgery.vocabulary.counting import Coverage, counts_of, coverage, kept_pieces, text_counts
from secateur.surgery.vocabulary.pruning import cut_vocabulary
from secateur.surgery.vocabulary.tokenizer import cut_tokenizer
from secateur.system.errors import UserError

TEXTS = sentences(1, 40)


def test_counts_of_rows():
    assert counts_of([[1, 2, 2], [], [-100, 0, 2]], 5).tolist() == [1, 1, 3, 0, 0]
    assert counts_of(iter([[3]] * 2500), 4).tolist() == [0, 0, 0, 2500]  # more than one batch
    assert counts_of([], 2).tolist() == [0, 0]


def test_a_piece_that_the_model_does_not_have_is_refused():
    with pytest.raises(UserError, match="the texts have piece 7, but the model has only 5 pieces"):
        counts_of([[1, 7]], 5)


@pytest.mark.parametrize("name", KINDS)
def test_whole_texts_are_counted_without_special_tokens(name):
    tokenizer = KINDS[name]()
    rows = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert text_counts(tokenizer, TEXTS, 900).tolist() == counts_of(rows, 900).tolist()
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 2


def test_words_that_are_split_already():
    tokenizer = KINDS["bert"]()
    words = [text.split() for text in TEXTS]
    assert text_counts(tokenizer, words, 505).tolist() == text_counts(tokenizer, TEXTS, 505).tolist()


def test_rare_pieces_are_removed():
    tokenizer = KINDS["bert"]()
    counts = text_counts(tokenizer, TEXTS, len(tokenizer))
    sizes = [len(kept_pieces(tokenizer, counts, min_count)) for min_count in (1, 2, 5, 10**9)]
    assert sizes == sorted(sizes, reverse=True) and len({*sizes}) == 4
    frequent = (counts >= 5).nonzero().flatten().tolist()
    assert {*frequent, *tokenizer.all_special_ids} <= {*kept_pieces(tokenizer, counts, 5).kept}


def test_other_pieces_are_kept_on_request():
    tokenizer = KINDS["bert"]()
    counts = counts_of([], 520)  # a table with more rows than the tokenizer has pieces
    least = kept_pieces(tokenizer, counts)
    more = kept_pieces(tokenizer, counts, also=(0, 501, 519))
    assert more.size == 520 and {*more.kept} == {*least.kept, 0, 501, 519}


@pytest.mark.parametrize("name", KINDS)
def test_special_and_added_tokens_are_kept(name):
    tokenizer = KINDS[name]()
    least = kept_pieces(tokenizer, counts_of([], len(tokenizer)))
    assert {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} <= {*least.kept}


def test_a_count_below_one_is_refused():
    with pytest.raises(UserError, match="min_count must be at least 1, got 0"):
        kept_pieces(KINDS["bert"](), counts_of([], 505), 0)


def test_a_tokenizer_of_a_larger_model_is_refused():
    with pytest.raises(UserError, match="needs piece 504, but the model has only 300 pieces"):
        kept_pieces(KINDS["mpnet"](), counts_of([], 300))


def test_coverage():
    tokenizer = KINDS["words"]()
    words = [word for word in tokenizer.get_vocab() if word.isalpha()][:2]
    kept, removed = words
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, [kept], len(tokenizer)))
    cut = cut_tokenizer(tokenizer, vocabulary)
    texts = [kept, f"{kept} {removed}", f"{kept} 🦖", removed]
    found = coverage(tokenizer, cut, vocabulary, texts)
    assert found == Coverage(texts=4, same=0.5, unknown_before=1 / 6, unknown_after=3 / 6, longer=1.0)
    assert json.loads(json.dumps(found.to_dict()))["same"] == 0.5


def test_pieces_become_more():
    tokenizer = KINDS["roberta"]()
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, TEXTS, len(tokenizer)))
    found = coverage(tokenizer, cut_tokenizer(tokenizer, vocabulary), vocabulary, ["", *sentences(2, 20)])
    assert found.longer > 1.1 and found.same > 0 and found.unknown_after == 0


def test_coverage_of_no_texts_is_refused():
    tokenizer = KINDS["words"]()
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, TEXTS, len(tokenizer)))
    with pytest.raises(UserError, match="at least one text"):
        coverage(tokenizer, tokenizer, vocabulary, [])


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        ("a fine film", "got one str: give a list"),
        (b"a fine film", "got one bytes: give a list"),
        ({"text": ["a film"]}, "got one dict: give a list"),
        (None, "got one NoneType: give a list"),
        (["a film", None], "text 2 is None: expected a str"),
        (["a film", 3], "text 2 is 3: expected a str"),
        ([[1, 2]], r"text 1 is \[1, 2\]: expected a str"),
        ([b"a film"], "text 1 is b'a film': expected a str"),
        ([{"text": "a film"}], "text 1 is .*: expected a str"),
        ([], "the texts have no piece"),
        (iter([]), "the texts have no piece"),
        ([""], "the texts have no piece"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, what):
    tokenizer = KINDS["bert"]()
    model = tiny("bert", vocab_size=len(tokenizer))
    with pytest.raises(UserError, match=what):
        cut_vocabulary(model, tokenizer, texts)


def test_the_coverage_of_one_text_in_place_of_a_list_is_refused():
    tokenizer = KINDS["bert"]()
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, TEXTS, len(tokenizer)))
    with pytest.raises(UserError, match="got one str: give a list of texts"):
        coverage(tokenizer, tokenizer, vocabulary, TEXTS[0])


def test_texts_and_lists_of_words_may_be_mixed():
    tokenizer = KINDS["bert"]()
    mixed = [text.split() if number % 2 else text for number, text in enumerate(TEXTS)]
    whole = [" ".join(text) if isinstance(text, list) else text for text in mixed]
    assert torch.equal(*(text_counts(tokenizer, texts, len(tokenizer)) for texts in (mixed, whole)))
