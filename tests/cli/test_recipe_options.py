"""Options that are made from the marks on a recipe's fields."""

from inspect import signature
from typing import Annotated, Literal, get_args

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from secateur.cli import app, recipe_options
from secateur.cli.commands import Commands
from secateur.run import recipe
from secateur.run.recipe_schema import Flag, Strict
from secateur.system.errors import UserError


class MadeUp(Strict):
    """A group with a field of every type."""

    count: Annotated[int | None, Flag("--count")] = Field(None, description="how many")
    share: Annotated[float, Flag("--share")] = Field(0.5, description="how much")
    fast: Annotated[bool, Flag("--fast")] = Field(True, description="whether it is fast")
    mode: Annotated[Literal["a", "b"], Flag("--mode")] = Field("a", description="which")
    names: Annotated[tuple[str, ...] | None, Flag("--names")] = Field(None, description="names")
    extra: Annotated[dict[str, object], Flag("--extra")] = Field(default_factory=dict, description="arguments")
    amount: Annotated[float | tuple[float, ...], Flag("--amount", text=True)] = Field(0.1, description="amounts")
    some: Annotated[tuple[str, ...], Flag("--some", switch=True)] = Field((), description="all, or some")
    unmarked: int = Field(0, description="not an option")


@pytest.fixture
def called(monkeypatch):
    """Call a command that has the options of `MadeUp`; returns what it was given, or the result if it failed."""
    fields = {f"made_up.{name}": field for name, field in MadeUp.model_fields.items()}
    for name, field in fields.items():
        monkeypatch.setitem(recipe.KEYS, name, field)

    def call(*words, **arguments):
        seen = {}

        @recipe_options.recipe_options("made_up", **arguments)
        def command(given: dict, own: Annotated[int, typer.Option(help="Its own.")] = 3):
            seen.update(given=given, own=own)

        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command()(command)
        result = CliRunner().invoke(single, list(words))
        return (seen["given"], seen["own"]) if seen else result

    return call


def test_only_what_is_given_arrives_converted_by_the_type_of_its_field(called):
    assert called() == ({}, 3)
    words = ("--count", "2", "--share", "0.25", "--no-fast", "--mode", "b", "--names", "x, y", "--own", "4")
    assert called("--some")[0] == {"made_up.some": True} and called("--no-some")[0] == {"made_up.some": False}
    extra = ("--extra", "k=[1, 2]", "--extra", "beta=9e-1", "--amount", "0.4,0.2")
    given, own = called(*words, *extra)
    assert own == 4
    assert given == {
        "made_up.count": 2,
        "made_up.share": 0.25,
        "made_up.fast": False,
        "made_up.mode": "b",
        "made_up.names": ("x", "y"),
        "made_up.extra": {"k": [1, 2], "beta": 0.9},
        "made_up.amount": "0.4,0.2",
    }


def test_the_help_shows_the_default_of_every_key_that_has_one(called):
    shown = called("--help", shown={"made_up.mode": "b, unless it is a"}).stdout
    for option, text in {"--share": "(0.5)", "--mode": "(b, unless it is a)", "--amount": "(0.1)"}.items():
        assert text in shown.partition(f"  {option}")[2].partition("\n  --")[0]
    assert shown.count("[default:") == 4  # and that of its own option


def test_keys_can_be_required_left_out_and_have_defaults(called):
    assert called("--count", "1", defaults={"made_up.mode": "b"})[0] == {"made_up.count": 1, "made_up.mode": "b"}
    assert "--count" in called(required=["made_up.count"]).stderr
    assert "--count" in called("--count", "1", without=["made_up.count"]).stderr


def test_the_help_is_the_description_and_an_unmarked_field_has_no_option(called):
    shown = called("--help").stdout
    assert (
        "How many." in shown
        and "Names (with commas between them)." in shown
        and "All, or some." in shown
        and "--no-fast" in shown
    )
    assert "--unmarked" not in shown


def test_a_new_mark_becomes_an_option_in_the_panel_of_its_group(monkeypatch):
    monkeypatch.setitem(recipe.KEYS, "training.count", MadeUp.model_fields["count"])
    command = recipe_options.recipe_options()(lambda given: None)  # as `prune` is decorated
    (option,) = get_args(signature(command).parameters["training_count"].annotation)[1:]
    assert option.rich_help_panel == "Training" and option.default == "--count"


def test_every_mark_is_an_option_of_prune_and_every_data_mark_of_eval():
    flags = {name: {flag for option in Commands()[name].params for flag in option.opts} for name in ("prune", "eval")}
    marks = recipe_options.marked()
    assert {mark.name for mark in marks.values()} <= flags["prune"]
    data = {mark.name for key, mark in marks.items() if key.startswith("data.") and key != "data.rows"}
    assert data <= flags["eval"] and "--density" not in flags["eval"]


def test_the_help_of_prune_has_a_panel_for_each_group():
    shown = CliRunner().invoke(app.app, ["prune", "--help"]).stdout
    titles = [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Arguments",
        "Options",
        "Run",
        "Data",
        "Target",
        "Vocabulary",
        "Method",
        "Training",
        "Storage",
        "Measurement",
        "Card",
        "Example",
    ]
    assert all(described in " ".join(shown.split()) for described in ("Seed of ", "--latency-table"))


@pytest.mark.parametrize("entry", ["density", "=3"])
def test_what_is_no_pair_is_refused(entry):
    with pytest.raises(UserError, match="is not key=value"):
        recipe_options.pairs_of("--set", [entry])
