"""What the loss would refuse in its first step, or when the student is cut, is refused before a teacher is trained."""

import pytest
from small_world import recipe_values, write_data, write_questions, write_world
from transformers import TrainingArguments

from secateur.run import pipeline, recipe
from secateur.run.stages import check
from secateur.system.errors import UserError
from secateur.training.step import Term
from secateur.training.terms import TERMS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_data(folder / "scores.csv", label=lambda number: number / 2)
    write_questions(folder / "questions.jsonl")
    return folder


def refused(world, match, **changed):
    made = recipe.make(recipe_values(str(world / "encoder"), str(world / "data.csv")) | changed)
    with pytest.raises(UserError, match=match) as refusal:
        pipeline.run(made, world / "run")
    assert "\n" not in str(refusal.value) and not (world / "run").exists()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_label_smoothing_without_classes(world, weight):
    smoothed = {"distillation.label_smoothing": 0.1, "distillation.labels_weight": weight}
    match = "label_smoothing spreads a label over classes, and this model has none: set it to 0"
    refused(world, match, data=str(world / "scores.csv"), **smoothed)
    refused(world, match, data=str(world / "questions.jsonl"), **smoothed | {"data.task": "questions"})


def test_hidden_states_without_projections_where_hidden_dims_are_pruned(world):
    own = {"distillation.hidden": None, "distillation.terms": {"hidden": {"project": False}}}
    refused(world, "need projections: leave them on", **own | {"target.units": ["hidden", "ffn"]})


def test_a_term_of_another_package_sees_a_step_of_the_pruning(world, monkeypatch):
    seen = []

    monkeypatch.setattr(TERMS, "_items", dict(TERMS.all()))

    @TERMS.register("picky")
    class Picky(Term):
        def forward(self, step):
            seen.append((len(step.batch["input_ids"]), step.masks is not None))
            raise UserError("picky wants other rows: give them")

    refused(world, "picky wants other rows", **{"distillation.terms": {"picky": {}}})
    assert seen == [(2, True)]


def test_several_devices_in_a_process_and_a_precision_that_the_machine_lacks(world, monkeypatch):
    def unsupported(*args, **kwargs):
        raise ValueError("Your setup doesn't support bf16/gpu.")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
        refused(world, "one process sees 2 GPUs")
    monkeypatch.setattr(check, "training_arguments", unsupported)
    refused(world, r"doesn't support bf16/gpu\.\): set training.bf16: false")
