"""Cut tokenizers of every algorithm on 10,000 random texts: vocabulary.md, section 4.

A text whose pieces are all kept is split into the same pieces. Any other text is split, too, and decodes to the text to
which the pieces decode that the tokenizer had before.
"""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import KINDS, sentences

from secateur.surgery.vocabulary.counting import coverage, kept_pieces, text_counts
from secateur.surgery.vocabulary.tokenizer import cut_tokenizer

ALGORITHMS = [name for name in KINDS if name not in ("mpnet", "xlm_roberta", "camembert", "deberta_v2")]
"""The tokenizers without those whose algorithm is that of another one."""
DECODED = {"bert", "roberta", "t5", "unigram_with_bytes", "bpe_of_characters"}
"""Those that have a decoder, and split a word that they do not have."""
USED = sentences(1, 40)
WORDS = sorted({word for sentence in USED for word in sentence.split()})
OTHERS = sorted({word for sentence in sentences(2, 60) for word in sentence.split()} - {*WORDS})
ODD = [
    *("", "\n", "0", "1984", "3.14", "😀", "👩‍👩‍👧", "🇪🇺", "\u0301", "\u200b", "ﬁ", "Ω", "𝕏", "\u4e00\u3042", "\x00"),
    *("[MASK]", "<mask>", "</s>", "<extra_id_0>", "<0x0A>", "▁", "##", "Ġ", "@@", "</w>"),
]
PARTS = st.one_of(*[st.sampled_from(WORDS)] * 3, st.sampled_from(OTHERS + ODD), st.text(max_size=6))
BATCHES = st.lists(PARTS, min_size=26, max_size=26, unique=True).map(
    lambda parts: [*parts[:25], *map(" ".join, pairwise(parts))]
)
"""50 texts: 25 random ones, and every two neighbours."""


@cache
def case(name):
    """The tokenizer, the pieces that `USED` has, and the tokenizer cut to them."""
    tokenizer = KINDS[name]()
    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, USED, len(tokenizer)))
    return tokenizer, vocabulary, cut_tokenizer(tokenizer, vocabulary)


@settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(BATCHES)
def test_kept_texts_have_equal_pieces_and_all_texts_decode_as_before(texts):
    for name in ALGORITHMS:
        tokenizer, vocabulary, cut = case(name)
        before, after = pieces(tokenizer, texts), pieces(cut, texts)
        for text, old, new in zip(texts, before, after, strict=True):
            if vocabulary.numbers.keys() >= {*old}:
                assert new == vocabulary.renumbered(old), (name, text)
        if name in DECODED:
            assert decoded(cut, after) == decoded(tokenizer, before), name


@settings(max_examples=20, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(BATCHES)
def test_bytes_decode_to_the_text_itself(texts):
    cut = case("roberta")[-1]
    texts = [text for text in texts if "<mask>" not in text]  # the token takes the space before it
    assert decoded(cut, pieces(cut, texts)) == texts


def pieces(tokenizer, texts):
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def decoded(tokenizer, rows):
    return tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=False)


@pytest.mark.parametrize("name", KINDS)
def test_the_texts_that_were_counted_have_equal_pieces(name):
    """So the property above is not true of nothing."""
    tokenizer, vocabulary, cut = case(name)
    assert len(cut) == len(vocabulary) < 0.75 * len(tokenizer)
    assert coverage(tokenizer, cut, vocabulary, USED).same == 1.0
    assert coverage(tokenizer, cut, vocabulary, sentences(2, 60)).same < 0.5
