"""Amounts as people write them."""

import pytest

from secateur.budget.amounts import batch_and_tokens, byte_count, fraction, fractions, multiple
from secateur.system.errors import UserError


def test_percent_and_fractions_are_the_same_number():
    for percent in range(1, 101):
        assert fraction(f"{percent}%") == fraction(f" {percent} % ") == fraction(str(percent / 100)) == percent / 100
    assert fraction("0.5%") == 0.005 and fraction(0.3) == 0.3
    assert fractions("40%,0.2,10%") == (0.4, 0.2, 0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", r"density 5 is not in .* for 5 percent write 0.05 or 5%"),
        ("50", r"for 50 percent write 0.5 or 50%"),
        ("500", r"write 0.05"),
        ("-0.1", r"is not in \(0, 1\]"),
        ("101%", r"is not in \(0, 1\]"),
        ("nan", r"is not in \(0, 1\]"),
        ("a tenth", r"'a tenth' is no fraction of the parameters: write it like 0.05, or like 5%"),
        ("0,05", r"has a decimal comma: write 0.05"),
    ],
)
def test_what_is_no_density_is_refused_with_what_was_meant(text, words):
    with pytest.raises(UserError, match=words):
        fractions(text)


def test_speedups_sizes_and_shapes():
    assert (multiple("2"), multiple("2.5x"), multiple(" 3 X ")) == (2, 2.5, 3)
    assert (byte_count("5MB"), byte_count("1.2 kB"), byte_count(7)) == (5_000_000, 1_200, 7)
    assert batch_and_tokens("8 X 128") == (8, 128)
    for read, text in ((multiple, "twice"), (byte_count, "big"), (batch_and_tokens, "8*128")):
        with pytest.raises(UserError, match="write it like"):
            read(text)
