"""The terms of a recipe: those that its keys make, and further registered ones, by name."""

import errno
from pathlib import Path

import pytest
from small_world import config, recipe_values, write_data, write_model

from secateur.run import pipeline, recipe
from secateur.run.context import Context
from secateur.run.distillation import Distillation
from secateur.run.run_data import RunData
from secateur.system.errors import UserError
from secateur.training.objectives import Hidden, Term
from secateur.training.terms import TERMS


def test_a_finished_run_of_a_read_only_file_system_is_only_read(tmp_path, monkeypatch):
    def refused(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    write_data(tmp_path / "data.csv")
    made = recipe.make(recipe_values(str(tmp_path / "model"), str(tmp_path / "data.csv")))
    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.setattr(pipeline.Report, "load", lambda folder: folder)
    assert pipeline.complete(Context(made, tmp_path, RunData(made))) == tmp_path


@pytest.fixture
def states(monkeypatch):
    """A registered term that reads hidden states of the teacher, and has an argument."""
    monkeypatch.setattr(TERMS, "_items", dict(TERMS.all()))

    @TERMS.register("states")
    class States(Term):
        needs_teacher = needs_hidden = True

        def __init__(self, weight=1.0, layer=1):
            super().__init__(weight)
            self.layer = layer

        def forward(self, step):
            states = (outputs.hidden_states[self.layer].float() for outputs in (step.student, step.teacher))
            student, teacher = (one[:, 0] for one in states)
            return (student.mean(dim=-1) - teacher.mean(dim=-1)).square().mean()

    return States


def distillation(tmp_path, **values):
    named = {f"distillation.{name}": value for name, value in values.items()}
    wanted = recipe.make({"model": "m", "data": "d", **named})
    return Distillation(wanted, tmp_path, two_stacks=False)


def test_a_recipe_may_name_further_terms(states, tmp_path):
    wanted = distillation(tmp_path, terms={"states": {"weight": 0.5, "layer": 2}}, labels_weight=0.1)
    terms = wanted.terms()
    assert [term.name for term in terms] == ["logits", "hidden", "labels", "states"]
    assert isinstance(terms[-1], states) and (terms[-1].weight, terms[-1].layer) == (0.5, 2)


def test_the_cached_layers_are_those_that_terms_read(states, tmp_path):
    assert distillation(tmp_path).layers(config()) == ([0, 2], [])
    assert distillation(tmp_path, terms={"states": {}}).layers(config()) == ([0, 1, 2], [])
    assert distillation(tmp_path, hidden=None).layers(config()) == ([], [])
    only = distillation(tmp_path, hidden=None, terms={"hidden": {"layers": "last"}})
    assert only.layers(config()) == ([2], []) and isinstance(only.terms()[-1], Hidden)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"state": {}}, "term 'state' is not known: did you mean 'states'"),
        ({"states": {"layers": 1}}, "the arguments of the term 'states' do not fit: .*'layers'"),
        ({"logits": {}}, "names 'logits', which the recipe has already"),
    ],
)
def test_impossible_terms_are_refused(states, tmp_path, terms, message):
    with pytest.raises(UserError, match=message):
        distillation(tmp_path, terms=terms).terms()


def test_a_run_with_a_further_term(states, tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    values = recipe_values(model, write_data(tmp_path / "data.csv")) | {"training.epochs": 1}
    values |= {"training.evaluations": 0, "training.checkpoints": 0}
    pipeline.run(recipe.make(values | {"distillation.terms": {"states": {}}}), tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert log.count("loss_states") == log.count("loss_logits") > 0
