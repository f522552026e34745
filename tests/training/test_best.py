"""The best evaluation, kept and restored."""

import logging
from types import SimpleNamespace

import pytest
from quiet import arguments
from tiny_models import tiny
from torch import nn

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.system.errors import UserError
from secateur.training.best import BestEvaluation, greater_is_better

NAN = float("nan")


def test_the_best_weights_are_restored_and_those_left_by_a_crash_do_not_count(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    best = BestEvaluation(tmp_path / "training" / "best.safetensors", "f1", {"model": model})
    best.restore()  # nothing has been kept
    for step, score, weight in ((1, 0.5, 1.0), (2, 0.7, 2.0), (3, 0.6, 3.0)):
        model.weight.data.fill_(weight)
        best.offer({"eval_f1": score}, step)
    best.restore()
    assert model.weight.item() == 2.0
    model.weight.data.fill_(4.0)
    best.offer({"eval_f1": 0.1}, 2)  # training was resumed before step 2
    best.restore()
    assert model.weight.item() == 4.0


def test_the_lowest_score_is_the_best_where_greater_is_not_better(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    best = BestEvaluation(tmp_path / "best.safetensors", "error", {"model": model}, greater_is_better=False)
    for step, score in enumerate((0.5, 0.2, 0.9, float("nan"))):
        model.weight.data.fill_(step)
        best.offer({"eval_error": score}, step)
    best.restore()
    assert model.weight.item() == 1.0
    best.forget()
    best.forget()
    model.weight.data.fill_(7.0)
    best.restore()
    assert model.weight.item() == 7.0


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize(
    ("scores", "best_step"), [((NAN, 0.3, NAN), 1), ((NAN, NAN, 0.3), 2), ((0.3, NAN, NAN), 0), ((NAN, NAN, NAN), 2)]
)
def test_a_score_that_is_no_number_is_worse_than_any(tmp_path, greater, scores, best_step):
    """A correlation of constant predictions is none, as early in a training."""
    model = nn.Linear(1, 1, bias=False)
    best = BestEvaluation(tmp_path / "best.safetensors", "pearson", {"model": model}, greater)
    for step, score in enumerate(scores):
        model.weight.data.fill_(step)
        best.offer({"eval_pearson": score}, step)
    best.restore()
    assert model.weight.item() == best_step


def test_a_training_without_an_evaluation_to_choose_says_so(tmp_path, caplog):
    """As where the target was never reached when the model was evaluated: the last weights are then the result."""
    model = nn.Linear(1, 1, bias=False)
    best = BestEvaluation(tmp_path / "best.safetensors", "f1", {"model": model})
    with caplog.at_level(logging.WARNING, logger="secateur"):
        best.restore()
    (record,) = caplog.records
    assert "select='f1' has chosen none: no evaluation came after" in record.getMessage()
    assert record.getMessage().endswith("end the ramp earlier, or evaluate more often")
    best.offer({"eval_f1": 0.5}, 1)
    caplog.clear()
    best.restore()
    assert not caplog.records


def test_a_tolerance_is_named_only_of_a_method_that_has_one(tmp_path, caplog):
    best = BestEvaluation(tmp_path / "best.safetensors", "f1", {})
    space = Space(tiny("bert"), "ffn")
    with caplog.at_level(logging.WARNING, logger="secateur"):
        best.restore(Cofi(space))
        best.restore(Grain(space))
    assert ["tolerance" in record.getMessage() for record in caplog.records] == [True, False]


def test_a_metric_that_evaluations_lack_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"select='f1' is not among the metrics .* choose one of accuracy, loss$"):
        BestEvaluation(tmp_path / "best.safetensors", "f1", {}).check({"eval_accuracy": 0.5, "eval_loss": 1.0})


@pytest.mark.parametrize(
    ("said", "of", "metric", "greater"),
    [
        (None, None, "f1", True),
        (None, None, "loss", False),
        (False, None, "f1", False),
        (True, None, "loss", True),
        (False, "f1", "f1", False),
        (False, "eval_f1", "f1", False),
        (False, "loss", "accuracy", True),
        (True, "accuracy", "loss", False),
    ],
)
def test_whether_greater_is_better_is_as_the_arguments_say_of_the_metric_or_as_in_trainer(said, of, metric, greater):
    args = SimpleNamespace(greater_is_better=said, metric_for_best_model=of)
    assert greater_is_better(args, metric) is greater


def test_what_trainer_takes_from_its_own_metric_is_not_said_of_another(tmp_path):
    args = arguments(tmp_path, 1, metric_for_best_model="loss")
    assert args.greater_is_better is False and greater_is_better(args, "accuracy") is True
