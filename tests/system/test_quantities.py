"""A number is said with its noun in the right form, and a limit with digits that are within it."""

import random

import pytest

from secateur.system.quantities import at_least, at_most, quantity


def test_one_has_no_s_and_thousands_have_commas():
    assert [quantity(count, "step") for count in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]


@pytest.mark.parametrize(
    ("value", "form", "up", "down"),
    [
        (0.33413, ".4f", "0.3342", "0.3341"),
        (0.3341, ".4f", "0.3341", "0.3341"),
        (0.99996, ".4f", "1.0000", "0.9999"),
        (5.64, ".1f", "5.7", "5.6"),
        (0.0, ".4f", "0.0000", "0.0000"),
        (2.80041, ".4g", "2.801", "2.8"),
        (1234.5, ".3g", "1.24e+03", "1.23e+03"),
        (999.94, ".4g", "1000", "999.9"),
        (5640000, ".0f", "5640000", "5640000"),
    ],
)
def test_a_floor_is_rounded_up_and_a_ceiling_down(value, form, up, down):
    assert (at_least(value, form), at_most(value, form)) == (up, down)


def test_what_is_shown_of_a_limit_is_within_it():
    numbers = random.Random(0)
    for form in (".4f", ".1f", ".4g", ".3g"):
        for value in (numbers.uniform(0, 10) ** numbers.randrange(-5, 6) for _ in range(200)):
            step = 10.0 ** -int(form[1]) if form.endswith("f") else value * 10.0 ** (1 - int(form[1]))
            assert value <= float(at_least(value, form)) <= value + 1.001 * step
            assert value - 1.001 * step <= float(at_most(value, form)) <= value
