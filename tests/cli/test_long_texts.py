"""Texts of more tokens than a model has positions, at every door that takes data for a model."""

import pytest
from small_world import tokenizer, write_data, write_model
from typer.testing import CliRunner

from secateur.cli import app


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier of 32 positions whose tokenizer has no limit, and data of which some texts have more tokens."""
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "classifier", ["bad", "good"])
    tokenizer(max_length=1000).save_pretrained(folder / "classifier")
    write_data(folder / "data.csv", rows=80)
    text = (folder / "data.csv").read_text()
    (folder / "long.csv").write_text(text + "".join(f"{'film ' * 40},{label}\n" for label in ("bad", "good") * 20))
    return folder


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "MODEL"),
        ("sensitivity", "MODEL", "--units", "ffn", "--output", "OUT"),
        ("cut", "MODEL", "--density", 0.5, "--output", "OUT"),
        ("export", "MODEL", "--output", "OUT"),
        ("verify", "MODEL", "--exported", "FILE"),
    ],
    ids=lambda words: words[0],
)
def test_a_text_longer_than_the_model_is_refused_before_anything_is_written(world, tmp_path, words):
    exported = world / "classifier.pt2"
    if "FILE" in words and not exported.exists():
        assert secateur("export", world / "classifier", "--output", exported).exit_code == 0
    places = {"MODEL": world / "classifier", "OUT": tmp_path / "out.pt2", "FILE": exported}
    given = ("--data", world / "long.csv", "--max-length", 64)
    result = secateur(*(places.get(word, word) for word in words), *given)
    assert result.exit_code == 2 and "give at most 32, which the model takes" in result.stderr, result.output
    assert "Traceback" not in result.stderr and not list(tmp_path.rglob("*.*"))[1:]
