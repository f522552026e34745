"""Models and tokenizers by one name: dense and compact folders, finished runs, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_world import write_model

from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.surgery.checkpoint import save
from secateur.surgery.compact import Pruned
from secateur.surgery.cut import cut
from secateur.surgery.opening import model_folder, open_model, open_tokenizer
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dense classifier, a bare encoder, and a run whose folder `model` is the classifier's cut."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "encoder")
    dense = open_model(write_model(root / "dense", ["bad", "good"]))
    small = cut(dense, Magnitude(Space(dense, "ffn")).plan(density=0.8))
    save(small, root / "run" / "model", tokenizer=open_tokenizer(root / "dense"))
    return root


def test_the_folder_of_a_run_stands_for_the_model_in_it(folders):
    assert model_folder(folders / "run") == folders / "run" / "model"
    assert model_folder(folders / "dense") == folders / "dense"
    assert model_folder("some/name") == Path("some/name")


def test_a_model_opens_with_its_own_head_in_fp32_and_for_evaluation(folders):
    dense, encoder, small = (open_model(folders / name) for name in ("dense", "encoder", "run"))
    assert type(dense).__name__.endswith("ForSequenceClassification") and type(encoder).__name__.endswith("Model")
    assert isinstance(small, Pruned)
    assert not any(model.training for model in (dense, encoder, small))
    assert {weight.dtype for weight in dense.parameters()} == {torch.float32}


def test_the_tokenizer_of_a_run_is_that_of_its_model(folders):
    assert open_tokenizer(folders / "run").get_vocab() == open_tokenizer(str(folders / "dense")).get_vocab()


def test_a_checkpoint_without_some_of_its_weights_is_refused(folders, tmp_path):
    write_model(tmp_path / "partial", ["bad", "good"])
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "partial" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its weights"):
        open_model(tmp_path / "partial")


@pytest.mark.parametrize("opens", [open_model, open_tokenizer])
def test_a_name_that_leads_nowhere_is_refused(opens, tmp_path):
    with pytest.raises(UserError, match="give a"):
        opens(str(tmp_path / "nothing"))
