"""The rows that a vocabulary keeps, their numbers, and their form in files."""

import pytest

from secateur.structure.vocabulary import Vocabulary
from secateur.system.errors import UserError


def test_a_kept_row_gets_the_number_of_its_position():
    vocabulary = Vocabulary(8, (0, 1, 4, 7))
    assert len(vocabulary) == 4
    assert vocabulary.renumbered([7, 0, 4, 4]) == [3, 0, 2, 2]


@pytest.mark.parametrize("lost", [0, 2, 8, -1])
def test_a_removed_row_has_no_number(lost):
    with pytest.raises(UserError, match=f"does not keep piece {lost}, which is needed"):
        Vocabulary(8, (1, 4)).renumbered([1, lost])


@pytest.mark.parametrize("kept", [(), (1, 1), (2, 1), (-1, 2), (0, 8)])
def test_impossible_rows_are_refused(kept):
    with pytest.raises(UserError, match="vocabulary must"):
        Vocabulary(8, kept)


def test_plain_values_give_the_vocabulary_again():
    vocabulary = Vocabulary(8, (0, 1, 4, 6, 7))
    assert vocabulary.to_dict() == {"size": 8, "kept": [[0, 1], [4, 4], [6, 7]]}
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"size": 8},
        {"size": 8.0, "kept": [[0, 1]]},
        {"size": 8, "kept": [[0, 1]], "more": 1},
        {"size": 8, "kept": [[0, 8]]},
        {"size": 8, "kept": [[1, 0]]},
        {"size": 8, "kept": [[0, 3], [3, 4]]},
        {"size": 8, "kept": [[0, True]]},
        {"size": 8, "kept": [0]},
        {"size": 8, "kept": []},
    ],
)
def test_values_are_checked_like_any_input(data):
    with pytest.raises(UserError):
        Vocabulary.from_dict(data)
