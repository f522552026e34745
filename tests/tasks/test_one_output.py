"""Heads with one output: regressions, and re-rankers with a sigmoid."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from small_world import config, recipe_values, tokenizer
from torch.nn import functional
from transformers import AutoConfig, BertForSequenceClassification, EvalPrediction
from transformers.modeling_outputs import SequenceClassifierOutput

from secateur.measure.evaluation import encoded
from secateur.measure.sensitivity import sensitivity
from secateur.run import pipeline as runs
from secateur.run import recipe
from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.training.objectives import Logits
from secateur.training.step import Step

TEXTS = ["a dull bad film", "a fine film", "a bad book", "a dull film"]
SIGMOID = "multi_label_classification"


def data(folder, labels, name="data.jsonl"):
    rows = [{"text": TEXTS[i % 4], "label": labels[i % len(labels)]} for i in range(24)]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder / name)


def re_ranker(folder, problem_type=None):
    torch.manual_seed(0)
    model = BertForSequenceClassification(config(num_labels=1, problem_type=problem_type))
    torch.nn.init.normal_(model.classifier.weight)  # its scores differ from row to row
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def loss_of(task, folder):
    """The loss of the task's model on some rows, with its logits and labels."""
    model = task.load_model(folder).eval()
    batch = task.collator(tokenizer())(encoded(task, "train", tokenizer(), 16)[:6])
    with torch.no_grad():
        outputs = model(**{key: value for key, value in batch.items() if key != "length"})
    return outputs.loss, outputs.logits.flatten(), batch["labels"].flatten()


@pytest.mark.parametrize(
    ("labels", "options", "problem_type", "sigmoid"),
    [
        ([0.02, 0.97], {}, None, True),
        ([0.0, 0.5, 1.0], {}, None, True),
        ([0, 1], {"scores": True}, None, True),
        ([False, True], {"scores": True}, None, True),
        ([0.02, 0.97], {}, SIGMOID, True),
        ([0.02, 0.97], {}, "regression", False),
        ([0.5, 4.5], {}, None, False),
        ([-0.5, 0.5], {}, None, False),
    ],
)
def test_the_loss_of_one_output_is_that_of_its_head(tmp_path, labels, options, problem_type, sigmoid):
    folder = re_ranker(tmp_path / "model", problem_type)
    task = Classification.from_data(data(tmp_path, labels), **options).fitted(folder, "model")
    loss, logits, gold = loss_of(task, folder)
    own = functional.binary_cross_entropy_with_logits if sigmoid else functional.mse_loss
    assert loss == pytest.approx(float(own(logits, gold)))
    assert task.sigmoid == sigmoid and task.is_finetuned(folder)


def test_scores_outside_of_probabilities_are_refused_where_the_head_states_these(tmp_path):
    folder = re_ranker(tmp_path / "model", SIGMOID)
    task = Classification.from_data(data(tmp_path, [0.5, 4.5]))
    with pytest.raises(UserError, match=r"is a probability .* column 'label' holds 4.5: scale the scores to \[0, 1\]"):
        task.fitted(folder, "model")


@pytest.mark.parametrize("problem_type", [None, SIGMOID])
@pytest.mark.parametrize("labels", [[0, 1], [False, True], ["no", "yes"]])
def test_classes_for_one_output_are_refused_with_the_option_for_scores(tmp_path, labels, problem_type):
    task = Classification.from_data(data(tmp_path, labels))
    with pytest.raises(UserError, match=r"the model has one output .* 2 labels.*by --task-option scores=true"):
        task.fitted(re_ranker(tmp_path / "model", problem_type), "model")


def test_two_classes_with_names_can_be_scores(tmp_path):
    rows = Dataset.from_dict({"text": TEXTS * 6, "label": [0, 1] * 12}).cast_column("label", ClassLabel(2))
    DatasetDict(train=rows).save_to_disk(tmp_path / "d")
    assert {*Classification.from_data(str(tmp_path / "d"), scores=True).splits["train"]["label"]} == {0.0, 1.0}


def test_integers_that_are_scores_may_be_negative(tmp_path):
    rows = [json.dumps({"text": f"text {number}", "label": number % 5 - 2}) for number in range(40)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    task = Classification.from_data(str(tmp_path / "d.jsonl"), scores=True)
    assert {*task.splits["train"]["label"]} == {-2.0, -1.0, 0.0, 1.0, 2.0}
    with pytest.raises(UserError, match="a class of -1 is no label"):
        Classification.from_data(str(tmp_path / "d.jsonl"))


def test_scores_do_not_depend_on_the_kind_of_the_head(tmp_path):
    task = Classification.from_data(data(tmp_path, [0.1, 0.9, 0.4]))
    logits, gold = np.array([[0.1], [2.0], [-1.0]]), np.array([0.1, 0.9, 0.4])
    found = [task.compute_metrics(EvalPrediction(logits, labels)) for labels in (gold, gold[:, None])]
    assert found[0] == found[1]


@pytest.mark.parametrize("problem_type", [None, SIGMOID, "regression"])
def test_the_logits_of_one_output_are_distilled_by_the_squared_error(problem_type):
    term, model = Logits(), BertForSequenceClassification(config(num_labels=1, problem_type=problem_type))
    term.bind(model, model)
    student, teacher = (SequenceClassifierOutput(logits=torch.tensor([[value]])) for value in (1.0, 3.0))
    assert float(term(Step({}, student, teacher))) == 4.0


@pytest.mark.parametrize("came", [None, SIGMOID])
def test_a_run_trains_the_sigmoid_and_keeps_the_kind_of_the_model(tmp_path, came, caplog):
    values = recipe_values(re_ranker(tmp_path / "model", came), data(tmp_path, [0.02, 0.97]))
    values |= {"training.epochs": 1, "distillation.labels_weight": 0.5}
    with caplog.at_level("INFO", "secateur"):
        runs.run(recipe.make(values), tmp_path / "run")
    assert "the one output of the model is trained as a sigmoid" in caplog.text
    assert AutoConfig.from_pretrained(tmp_path / "run" / "model").problem_type == came


def test_sensitivity_uses_the_loss_of_the_head_and_leaves_the_model_as_it_came(tmp_path, monkeypatch):
    folder = re_ranker(tmp_path / "model")
    task = Classification.from_data(data(tmp_path, [0.02, 0.97])).fitted(folder, "model")
    model, seen = BertForSequenceClassification.from_pretrained(folder), []
    model.register_forward_hook(lambda model, inputs, outputs: seen.append(model.config.problem_type))
    sensitivity(model, task, tokenizer(), units=("ffn",), densities=(0.5,), rows=8, max_length=16)
    assert {*seen} == {SIGMOID} and model.config.problem_type is None
