"""The names of version 0.1.0 for generating texts."""

import pytest

from secateur.tasks import generation, writing


@pytest.mark.parametrize(("old", "new"), [("write", "generate"), ("Search", "BeamSearch"), ("texts_of", "decode")])
def test_an_old_name_still_works_and_names_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"writing.{old} is now secateur.tasks.generation.{new}"):
        assert getattr(writing, old) is getattr(generation, new)


def test_another_name_does_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'read'"):
        _ = writing.read
