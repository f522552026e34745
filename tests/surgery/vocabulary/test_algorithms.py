"""What each algorithm needs of a vocabulary, on models of a few pieces."""

import pytest

from secateur.surgery.vocabulary.algorithms import ALGORITHMS, algorithm_of, pieces_of
from secateur.system.errors import UserError


def closure(model, *wanted):
    """The pieces that wanted pieces need, with them."""
    numbers = pieces_of(model)
    kept = algorithm_of(model).closure(model, {numbers[piece] for piece in wanted})
    return {piece for piece, number in numbers.items() if number in kept}


def cut(model, *kept):
    numbers = sorted(pieces_of(model)[piece] for piece in kept)
    return algorithm_of(model).cut(model, {old: new for new, old in enumerate(numbers)})


def numbered(*pieces):
    return {piece: number for number, piece in enumerate(pieces)}


WORDPIECE = {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": numbered("[PAD]", "[UNK]", "a", "b", "##a", "##b", "##", "###", "ab", "##ab", "é"),
}  # fmt: skip
BPE = {
    "type": "BPE", "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "vocab": numbered("a", "b", "c", "ab", "bc", "abc", "ca", "aa", "<0x0A>"),
    "merges": [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"], ["c", "a"], ["a", "a"]],
}  # fmt: skip
MARKED = {
    "type": "BPE", "unk_token": "<unk>", "continuing_subword_prefix": "@@", "end_of_word_suffix": "</w>",
    "vocab": numbered("<unk>", "a", "@@a", "a</w>", "@@a</w>", "b", "@@b", "aa", "aa</w>", "ab", "@@</w>"),
    "merges": [["a", "@@a"], ["a", "@@a</w>"], ["a", "@@b"]],
}  # fmt: skip
UNIGRAM = {
    "type": "Unigram", "unk_id": 2, "byte_fallback": True,
    "vocab": [["<pad>", 0.0], ["extra", 0.0], ["<unk>", 0.0], ["a", -3.0], ["ab", -2.0], ["<0x0A>", -1.0],
              ["abc", -9.0], ["b", -4.0], ["bc", -5.0]],
}  # fmt: skip
WORDS = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": numbered("[PAD]", "[UNK]", "a", "b")}


@pytest.mark.parametrize(
    ("model", "wanted", "kept"),
    [
        (WORDPIECE, ["##ab"], {"[PAD]", "[UNK]", "a", "b", "##a", "##b", "###", "é", "##ab"}),
        (BPE, [], {"a", "b", "c", "<0x0A>"}),
        (BPE, ["ca"], {"a", "b", "c", "<0x0A>", "ca"}),
        (BPE, ["abc"], {"a", "b", "c", "<0x0A>", "ab", "bc", "abc"}),  # by either way
        (MARKED, [], {"<unk>", "a", "@@a", "a</w>", "@@a</w>", "b", "@@b"}),
        (MARKED, ["aa</w>"], {"<unk>", "a", "@@a", "a</w>", "@@a</w>", "b", "@@b", "aa</w>"}),
        (UNIGRAM, ["bc"], {"<pad>", "extra", "<unk>", "a", "<0x0A>", "abc", "b", "bc"}),  # "abc" has the smallest score
        (WORDS, ["b"], {"[UNK]", "b"}),
    ],
)
def test_closure(model, wanted, kept):
    assert closure(model, *wanted) == kept


def test_pieces_that_alone_hold_a_character_are_kept():
    """`ab` falls into `a` and `##b`; there is no `##x` and no `q` for the others, and `xb` needs only `x` and `##b`."""
    pieces = ("[UNK]", "a", "b", "x", "##b", "##q", "ab", "xb", "##xb", "bx", "qb", "##bqb")
    model = WORDPIECE | {"vocab": numbered(*pieces)}
    assert closure(model) == {*pieces} - {"ab", "xb", "##bqb"} | {"[UNK]"}


def test_merges_stay_in_order():
    shorter = cut(BPE, "a", "b", "c", "ab", "bc", "abc")
    assert shorter["vocab"] == numbered("a", "b", "c", "ab", "bc", "abc")
    assert shorter["merges"] == [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]


def test_scores_and_the_unknown_number_follow():
    shorter = cut(UNIGRAM, "<pad>", "<unk>", "ab", "abc")
    assert shorter["vocab"] == [["<pad>", 0.0], ["<unk>", 0.0], ["ab", -2.0], ["abc", -9.0]]
    assert shorter["unk_id"] == 1
    assert cut({**UNIGRAM, "unk_id": None}, "ab")["unk_id"] is None


def test_a_model_without_an_unknown_token():
    model = {**WORDS, "unk_token": "[MISSING]"}
    assert closure(model, "a") == {"a"}
    assert [algorithm_of(one).unknown(one) for one in (WORDPIECE, BPE, MARKED, UNIGRAM, model)] == [1, None, 0, 2, None]


def test_another_algorithm_is_refused():
    with pytest.raises(UserError, match=f"type 'Later' cannot be cut: expected one of {', '.join(ALGORITHMS)}"):
        algorithm_of({"type": "Later"})
