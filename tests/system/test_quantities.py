"""A number is said with its noun in the right form."""

from secateur.system.quantities import quantity


def test_one_has_no_s_and_thousands_have_commas():
    assert [quantity(count, "step") for count in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
