"""Answers as texts and as spans: the official scores by hand, and the best spans beside a search through all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secateur.tasks.answers import best_spans, exact_match, f1, merged, normalise, ranked

QUICK = settings(max_examples=60, derandomize=True, deadline=None, database=None)


# ---- texts


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The  Owl, a cat;\tan ANT!", "owl cat ant"),
        ("U.S.A.", "usa"),
        ("A", ""),
        ("the-end of a-b", "theend of ab"),  # punctuation goes first, and joins what it stood between
        ("Theatre another antenna", "theatre another antenna"),
        ("\u201cThe\u201d End", "\u201c \u201d end"),  # ASCII's punctuation alone, around which words end all the same
        ("1,000 km\u00b2", "1000 km\u00b2"),
        ("  \n", ""),
    ],
)
def test_texts_are_normalised_as_the_official_scripts_do(text, left):
    assert normalise(text) == left


@pytest.mark.parametrize(
    ("text", "golds", "exact", "score"),
    [
        ("the fine film", ["Fine film."], 1, 1),
        ("a fine old film", ["the film"], 0, 1 / 2),  # 1 word of 3, and of 1: 2 x 1 / (3 + 1)
        ("film film book", ["film"], 0, 1 / 2),  # a word counts as often as both have it
        ("film film book", ["film film"], 0, 4 / 5),
        ("book film", ["film book"], 0, 1),  # bags of words have no order
        ("dull book", ["fine film"], 0, 0),
        ("dull book", ["fine film", "a book", "dull books"], 0, 2 / 3),  # the best gold answer for each
        ("book", ["a very dull book", "book"], 1, 1),
        ("", [], 1, 1),
        ("the", [], 1, 1),  # of which nothing is left
        ("book", [], 0, 0),
        ("", ["book"], 0, 0),
        ("the", ["a"], 1, 1),
    ],
)
def test_scores_equal_values_computed_by_hand(text, golds, exact, score):
    assert exact_match(text, golds) == exact
    assert f1(text, golds) == pytest.approx(score)


# ---- spans


def windows_of(length):
    """Logits of start and end, and whether each token is one of the context."""
    logits = arrays(np.float32, length, elements=st.integers(-40, 40).map(lambda n: n / 4))
    return st.tuples(logits, logits, arrays(bool, length))


@QUICK
@given(st.integers(0, 12).flatmap(windows_of), st.integers(1, 9), st.integers(1, 14))
def test_the_best_spans_are_the_best_of_all(window, most, longest):
    start, end, own = window
    offsets = np.stack([np.arange(len(own)), np.arange(len(own)) + own], axis=1)
    found = best_spans(np.append(start, 99), np.append(end, 99), offsets, most=most, longest=longest)  # padding is 99
    tokens = np.flatnonzero(own)
    pairs = [(i, j) for a, i in enumerate(tokens) for b, j in enumerate(tokens) if a <= b < a + longest]
    every = {(int(i), int(j) + 1): float(start[i] + end[j]) for i, j in pairs}
    assert sorted(found.values()) == sorted(sorted(every.values(), reverse=True)[:most])
    assert all(every[span] == score for span, score in found.items())


def test_logits_that_are_not_finite_give_no_answer():
    offsets = np.array([[0, 1], [1, 2], [2, 3]])
    start, end = np.array([np.nan, 1.0, -np.inf]), np.array([0.0, 2.0, 3.0])
    assert best_spans(start, end, offsets, most=9, longest=3) == {(1, 2): 3.0, (1, 3): 4.0}
    assert best_spans(start * np.nan, end, offsets, most=9, longest=3) == {}


def test_tokens_of_one_character_give_one_span():
    offsets = np.array([[0, 1], [0, 1], [1, 2]])  # an emoji of two byte tokens
    logits = np.array([1.0, 2.0, 0.0])
    assert best_spans(logits, logits, offsets, most=9, longest=1) == {(0, 1): 4.0, (1, 2): 0.0}


def test_a_span_in_two_windows_is_one_answer_with_its_best_score():
    assert merged([{(0, 3): 1.0, (4, 9): 2.0}, {(4, 9): 5.0, (10, 12): 0.0}, {}]) == {
        (0, 3): 1.0,
        (4, 9): 5.0,
        (10, 12): 0.0,
    }


def test_answers_are_ranked_and_their_probabilities_add_up():
    spans = {(2, 6): 1.0, (0, 1): 3.0, (2, 4): 1.0}
    first, second, third = ranked("a fine film", spans, 9)
    assert [(one.text, one.start, one.end, one.score) for one in (first, second, third)] == [
        ("a", 0, 1, 3.0),
        ("fi", 2, 4, 1.0),
        ("fine", 2, 6, 1.0),
    ]
    whole = np.exp(3) + 2 * np.exp(1)
    assert [one.probability for one in (first, second)] == pytest.approx([np.exp(3) / whole, np.exp(1) / whole])
    assert [one.text for one in ranked("a fine film", spans, 2, nothing=2.0)] == ["a", ""]
    assert ranked("a fine film", {}, 2) == []
