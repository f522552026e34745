"""A teacher of another depth than its student: the plan fits the student, and the whole job is done."""

import pytest
import torch
from safetensors.torch import load_file
from small_world import config, recipe_values, tokenizer, write_data, write_model
from transformers import BertForSequenceClassification

from secateur.run import pipeline, recipe
from secateur.surgery.checkpoint import load


@pytest.mark.parametrize("rate", [None, 1e-4])
def test_a_student_may_be_less_deep_than_its_teacher(tmp_path, rate):
    labels = {"num_labels": 2, "id2label": {0: "bad", 1: "good"}}
    deeper = config(**labels)
    deeper.num_hidden_layers = 3
    BertForSequenceClassification(deeper).save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    values = recipe_values(write_model(tmp_path / "student"), write_data(tmp_path / "data.csv")) | {
        "teacher": str(tmp_path / "teacher"),
        "distillation.start": "model",
        "distillation.hidden": None,
        "training.epochs": 1,
        "training.evaluations": 0,
        "training.freeze_embeddings": "all",
    }
    if rate:
        values |= {"training.decay": "stage", "training.recover_learning_rate": rate}
    report = pipeline.run(recipe.make(values), tmp_path / "run")
    assert len(report.structure) >= 2 and 0 < report.density["prunable"] <= values["target.density"]
    made, student = load(tmp_path / "run" / "model"), load_file(tmp_path / "student" / "model.safetensors")
    assert made.config.num_hidden_layers == 2
    frozen = {f"bert.{name}": weight for name, weight in student.items() if name.startswith("embeddings.")}
    assert any("LayerNorm" in name for name in frozen)
    assert all(torch.equal(made.state_dict()[name], weight) for name, weight in frozen.items())
    assert report.parameters["teacher"] > report.parameters["model"]
