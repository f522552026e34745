"""`secateur.prune` runs the recipe that the command runs, and its result shows the numbers of the report."""

import re
from dataclasses import replace
from html import escape

import pytest
from made_up_run import REPORT
from tiny_models import tiny
from typer.testing import CliRunner

import secateur
from secateur.cli import app, prune_work
from secateur.run import prune_call
from secateur.run.prune_call import PruneResult
from secateur.run.recipe import make
from secateur.run.recipe_yaml import parse
from secateur.system.errors import UserError


@pytest.fixture
def asked(monkeypatch):
    """The recipes, folders and words that jobs were asked for; none is run."""
    found = []

    def job(recipe, output, callbacks, *, overwrite):
        found.append((recipe, output, overwrite))
        return [REPORT]

    monkeypatch.setattr(prune_call, "run_job", job)
    monkeypatch.setattr(prune_work, "run_job", job)
    monkeypatch.setattr(prune_work, "_show", lambda *shown: None)
    return found


def test_a_call_is_the_command_with_the_same_options(asked, tmp_path):
    options = {"density": "20%", "method": "magnitude", "label": "stars", "epochs": 2, "keep_score": None}
    result = secateur.prune("m", "d.csv", output=tmp_path, recipe={"training.select": 5}, overwrite=True, **options)
    words = ["prune", "m", "--data", "d.csv", "--density", "20%", "--method", "magnitude", "--label", "stars"]
    words += ["--epochs", "2", "--set", "training.select=5", "--overwrite", "--output", str(tmp_path)]
    assert CliRunner().invoke(app.app, words).exit_code == 0
    assert asked[0] == asked[1] and asked[0][1:] == (tmp_path, True)
    assert result.scores == REPORT.scores and result.folder == tmp_path


def test_the_arguments_of_a_call_go_before_its_recipe_in_every_spelling(asked, tmp_path):
    """As a user passes the recipe of another run, which holds every key."""
    other = make({"model": "old", "data.source": "old.csv", "target.size": 1_000_000, "training.epochs": 3, "seed": 7})
    file = tmp_path / "recipe.yaml"
    file.write_text(other.to_yaml())
    given = {"density": 0.2, "steps": 40}
    for recipe in (other.to_dict(), parse(other.to_yaml(), "it"), file, str(file)):
        secateur.prune("new", "new.csv", output=tmp_path, recipe=recipe, **given)
        found = asked.pop()[0]
        assert (found.model, found.data.source, found.seed) == ("new", "new.csv", 7)
        assert (found.target.density, found.target.size) == (0.2, None)
        assert (found.training.steps, found.training.epochs) == (40, None)


def test_a_recipe_that_a_file_could_not_hold_is_refused(asked, tmp_path):
    with pytest.raises(UserError, match=r"the key 'training\.epochs' twice, in two spellings"):
        secateur.prune("m", "d", output=tmp_path, recipe={"epochs": 2, "training": {"epochs": 3}})
    with pytest.raises(UserError, match="recipe is a list: give keys with their values, or the path"):
        secateur.prune("m", "d", output=tmp_path, recipe=["density"])
    with pytest.raises(UserError, match=r"the recipe nowhere\.yaml cannot be read"):
        secateur.prune("m", "d", output=tmp_path, recipe="nowhere.yaml")
    assert asked == []


def test_a_model_or_data_in_memory_are_refused_with_where_to_put_them(asked, tmp_path):
    with pytest.raises(UserError, match=r"model is a BertForSequenceClassification.*save_pretrained"):
        secateur.prune(tiny("bert"), "d", output=tmp_path)
    with pytest.raises(UserError, match=r"data is a list.*parquet"):
        secateur.prune("m", [{"text": "a", "label": 1}], output=tmp_path)
    assert asked == []


def test_options_that_are_not_known_and_several_densities_are_refused(asked, tmp_path):
    with pytest.raises(UserError, match="no option 'densty': did you mean 'density'"):
        secateur.prune("m", "d", output=tmp_path, densty=0.1)
    with pytest.raises(UserError, match="give one density"):
        secateur.prune("m", "d", output=tmp_path, density="40%,20%")
    assert asked == []


def test_a_result_shows_itself(tmp_path):
    result = PruneResult(tmp_path / "<run>", REPORT)
    assert (
        repr(result)
        == f"PruneResult(It worked: 97.0% of the accuracy, 2.5x faster, 1.9x smaller; {tmp_path / '<run>'})"
    )
    page = result._repr_html_()
    assert "<run>" not in page and "&lt;run&gt;" in page and "<h4>It worked: 97.0% of the accuracy" in page
    assert re.findall("<td>(.*?)</td>", page)[:3] == ["accuracy", "0.9000", "0.8730"]
    assert result.verdict.worked and escape(str(result.verdict)) in page
    lost = PruneResult(tmp_path, replace(REPORT, scores={"accuracy": 0.8}))
    assert not lost.verdict.worked and repr(lost).startswith("PruneResult(It fell short: 88.9% of the accuracy")
