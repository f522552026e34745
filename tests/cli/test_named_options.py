"""What a command says of a mistake names what the user has typed and may type, and no argument of Python."""

import pytest
import yaml
from small_world import recipe_values, write_world
from typer.testing import CliRunner

from secateur.cli import app


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier of 32 positions, and its data."""
    return write_world(tmp_path_factory.mktemp("world"))


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def refused(result, *parts):
    said = result.stderr
    assert result.exit_code == 2 and all(part in said for part in parts) and "`" not in said, said
    return True


@pytest.mark.parametrize("words", [("--data", "DATA", "--rows", 0), ()], ids=["no rows", "no data"])
def test_ranges_of_int8_are_asked_for_by_options_before_the_model_is_opened(world, tmp_path, words):
    pytest.importorskip("nncf")
    given = [world / "data.csv" if word == "DATA" else word for word in words]
    output = ("--output", tmp_path / "model.xml", "--dtype", "int8")
    result = secateur("export", tmp_path / "no model", *output, *given)
    advice = "leave --rows 0 out" if words else "name data by --data"
    assert refused(result, f"int8 for OpenVINO IR needs training rows for the ranges of activations: {advice}")


def test_shapes_that_the_model_cannot_read_are_named_with_shorter_ones(world, tmp_path):
    words = ("--data", world / "data.csv", "--max-length", 24, "--dry-run", "--density", 0.5, "--steps", 4)
    weak = ("--set", "distillation.check_teacher=false")
    run = ("prune", world / "classifier", *words, *weak, "--output", tmp_path / "run")
    shorter = "measurement.shapes=[[1,32],[8,32]]"
    result = secateur(*run)
    assert refused(result, "measurement.shapes has one of 128 tokens", "has 32 positions", f"--set '{shorter}'")
    again = secateur(*run, "--set", shorter)
    assert again.exit_code == 0, again.output


def test_too_many_columns_of_text_are_those_of_the_option(world, tmp_path):
    words = ("--data", world / "data.csv", "--text", "a,b,c", "--output", tmp_path / "run")
    assert refused(secateur("prune", world / "classifier", *words), "error: --text names 3 columns: name one, or two")


@pytest.mark.parametrize("verb", ["prune", "sweep"])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("densty=0.1", "error: the command line has the unknown key 'densty': did you mean 'target.density'?"),
        ("training.epochs=0.5.1", "epochs: expected a number, not '0.5.1'"),
    ],
)
def test_a_mistake_in_a_key_that_is_set_is_not_blamed_on_the_file(world, tmp_path, verb, entry, message):
    if verb == "sweep":
        pytest.importorskip("optuna")
    values = recipe_values(str(world / "classifier"), str(world / "data.csv"))
    sweep = {"sweep": {"over": {"target.density": [0.5, 0.4]}}} if verb == "sweep" else {}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**values, **sweep}), encoding="utf-8")
    words = ("prune", "--recipe") if verb == "prune" else ("sweep",)
    result = secateur(*words, file, "--set", entry, "--output", tmp_path / "out")
    said = result.stderr.replace("`", "")
    assert result.exit_code == 2 and message in said and "mine.yaml" not in said, said
