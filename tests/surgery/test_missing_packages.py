"""A tokenizer whose package is not installed is refused in one sentence, before anything is done."""

import re

import pytest
from small_world import write_model
from transformers import AutoTokenizer
from typer.testing import CliRunner

from secateur.cli import app
from secateur.run import recipe
from secateur.run.run_data import RunData
from secateur.surgery.opening import open_tokenizer
from secateur.system.errors import MissingPackage

MESSAGE = "\nMarianTokenizer requires the SentencePiece library but it was not found. Check out the\npage of its repo\n"


@pytest.fixture
def model(tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError(MESSAGE)

    folder = write_model(tmp_path / "model", ("bad", "good"))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", missing)
    return folder


def test_it_is_refused_with_the_extra_to_install(model):
    made = recipe.make({"model": str(model), "data": "none"})
    for attempt in (lambda: open_tokenizer(model), lambda: RunData(made).tokenizer):
        with pytest.raises(MissingPackage, match=r"SentencePiece.* run pip install sentencepiece") as error:
            attempt()
        assert "\n" not in str(error.value)


NAMED = {
    "You need to install sacremoses to use XLMTokenizer. See https://pypi.org": "run pip install sentencepiece",
    "You need to install fugashi to use MecabTokenizer. See https://pypi.org": "MecabTokenizer): install that package",
    "The unidic_lite dictionary is not installed. See https://github.com": "installed): install that package",
}


@pytest.mark.parametrize("said", NAMED)
def test_the_extra_is_named_only_if_it_installs_what_is_missing(said, model, monkeypatch):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError(said)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(MissingPackage, match=re.escape(NAMED[said])):
        open_tokenizer(model)


def test_a_cut_model_never_lacks_its_tokenizer_in_silence(model, tmp_path):
    result = CliRunner().invoke(app.app, ["cut", str(model), "--density", "0.5", "--output", str(tmp_path / "cut")])
    assert isinstance(result.exception, MissingPackage) or "SentencePiece" in result.output
    assert not (tmp_path / "cut").exists()
