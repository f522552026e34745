"""What needs no training and no measurement to be refused is refused before either."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny

from secateur.run import recipe
from secateur.run.stages import check
from secateur.run.sweep.check import _differing
from secateur.system.errors import UserError

VALUES = {"model": "m", "data": "d", "target.density": 0.5, "method": "magnitude"}


def context(**changed):
    """A stand-in for the context of a run, with what the check of a student reads of it."""
    task = SimpleNamespace(of_one_width=False)
    return SimpleNamespace(recipe=recipe.make(VALUES | changed), data=SimpleNamespace(task=task))


def test_word_embeddings_in_int8_are_refused_for_a_model_without_words_before_it_is_trained():
    images = tiny("vit", dtype=torch.float32)
    with pytest.raises(UserError, match="word embeddings in int8 of a 'vit' model is not possible"):
        check.check_target(context(**{"storage.embeddings": "int8"}), images, None)


def test_a_sweep_checks_each_kind_of_storage():
    made = [recipe.make(VALUES | {"storage.embeddings": rows}) for rows in ("fp32", "int8", "fp32")]
    assert [one.storage.embeddings for _, one in _differing([({}, one) for one in made])] == ["fp32", "int8"]
