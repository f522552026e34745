"""What the options of a cut ask for: a plan says all, and units are removed only where an option says so."""

import json

import pytest
from small_world import write_world
from typer.testing import CliRunner

from secateur.cli import app


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier, its data, texts with six of its eight words, and a plan of half of it."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "texts.txt").write_text("a fine film\n\na dull film and a good film\n", encoding="utf-8")
    assert secateur("cut", folder / "classifier", "--density", 0.5, "--output", folder / "half").exit_code == 0
    return folder


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def refused(result, *parts):
    return result.exit_code == 2 and all(part in result.stderr for part in parts)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--density", 0.2), "--density"),
        (("--units", "ffn", "--method", "random"), "--units and --method"),
        (("--option", "seed=4"), "--option"),
        (("--embedding-rank", 4), "--embedding-rank"),
        (("--keep", 3), "--keep"),
        (("--speedup", 3), "--speedup"),
        (("--size", "1kB"), "--size"),
        (("--round-to", 8), "--round-to"),
    ],
)
def test_what_a_plan_says_is_refused_beside_it(world, tmp_path, words, named):
    result = secateur(
        "cut", tmp_path / "no model", "--plan", world / "half/plan.json", *words, "--output", tmp_path / "a"
    )
    assert refused(result, f"leave {named} out, or cut without a plan")


def test_what_a_plan_does_not_say_is_taken_beside_it(world, tmp_path):
    words = (
        "--data",
        world / "data.csv",
        "--max-length",
        24,
        "--seed",
        1,
        "--embedding-svd",
        "plain",
        "--store",
        "bf16",
    )
    plan = ("--plan", world / "half/plan.json", "--vocabulary", world / "texts.txt")
    result = secateur("cut", world / "classifier", *plan, *words, "--output", tmp_path / "small", "--json")
    assert result.exit_code == 0, result.output
    found, half = json.loads(result.stdout), json.loads((world / "half/plan.json").read_text())
    assert found["vocabulary"]["kept"] == 10
    assert found["parameters"]["prunable"]["density"] == half["achieved"]["prunable"]
