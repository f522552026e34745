"""A trainer as users call it: every forward is masked, the models come back whole, and nothing passed in is dropped."""

import pytest
import torch
from quiet import arguments
from test_trainer import QUIET, STEPS, Watch, collate, trainer
from tiny_models import tiny
from transformers import TrainerCallback, get_scheduler

from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.scheduled import Scheduled
from secateur.surgery.masking import ATTACHED, attached
from secateur.system.errors import UserError
from secateur.training.hidden_states import Hidden
from secateur.training.objectives import Labels, Logits
from secateur.training.step import Term
from secateur.training.trainer import PruningTrainer

# Every forward is masked


class Forwards(TrainerCallback):
    """The model's logits for a batch, at every event of a training."""

    def __init__(self, batch):
        self.batch, self.seen = batch, []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.seen.append(masked_logits(model, self.batch))

    on_step_end = on_evaluate = on_train_end = on_train_begin


def masked_logits(model, batch):
    """A forward of a model, and whether masks were on it."""
    with torch.no_grad():
        return getattr(model, ATTACHED, None) is not None, model(**batch).logits


def test_every_forward_of_a_trainer_is_masked(tmp_path):
    made = trainer(tmp_path, [], Watch(), select=None, **QUIET)
    made.compute_metrics = None
    made.method.alive[: len(made.method.alive) // 2] = False
    batch = collate(made.eval_dataset)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with attached(made.model.eval(), made.method.space, made.method.alive.float()):
        expected = made.model(**batch)
    loss = float(expected.loss.detach())
    predicted = made.predict(made.eval_dataset)
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), expected.logits.detach())
    assert made.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert predicted.metrics["test_loss"] == pytest.approx(loss, abs=1e-5)
    _, logits, _ = made.prediction_step(made.model, dict(batch), False)
    torch.testing.assert_close(logits, expected.logits.detach())
    assert float(made.compute_loss(made.model, dict(batch)).detach()) == pytest.approx(loss, abs=1e-5)
    assert not torch.allclose(made.model(**inputs).logits, expected.logits)  # the caller's model has no masks


def test_a_forward_in_a_callback_is_masked(tmp_path):
    made = trainer(tmp_path, [0.1] * 6, Watch(), select=None)
    forwards = Forwards(collate(made.eval_dataset))
    made.add_callback(forwards)
    made.train()
    assert len(forwards.seen) == 1 + 2 * STEPS + 1 and all(masked for masked, _ in forwards.seen)


# What a training leaves of the models


class Interrupt(TrainerCallback):
    def __init__(self, error, step=4):
        self.error, self.step = error, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise self.error


def state_of(model):
    """What an interrupted training must not change: classes, forwards, hooks, shapes."""
    modules = {
        name: (type(module), "forward" in vars(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    return modules, {name: (value.shape, value.requires_grad) for name, value in model.named_parameters()}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("full"), None], ids=["ctrl-c", "error", "none"])
def test_a_training_gives_the_models_back_whole(tmp_path, error):
    teacher = tiny("bert", dtype=torch.float32, seed=1).train()
    teacher.classifier.bias.requires_grad_(False)
    taught = state_of(teacher)
    callback = Interrupt(error, step=4 if error is not None else 99)
    options = {"select": None, "teacher": teacher, "objective": [Logits()], "shrink": True, "bf16": True, "kind": Grain}
    made = trainer(tmp_path, [], callback, **options, **QUIET)
    before, cuts = state_of(made.model), []
    cut = made.shrinking.shrinking.cut
    made.shrinking.shrinking.cut = lambda *args: (cut(*args), cuts.append(made.model.num_parameters()))
    if error is None:
        made.train()
    else:
        with pytest.raises(type(error)):
            made.train()
    assert cuts and cuts[-1] < sum(shape.numel() for shape, _ in before[1].values())
    assert state_of(made.model) == before
    assert state_of(teacher) == taught and teacher.training and teacher.bert.training
    assert made.model(**collate(made.eval_dataset)).logits.dtype == torch.float32


# What is passed in


def test_a_micro_batch_without_labels_is_trained_as_in_one_batch(tmp_path):
    """A row of which no token is labelled, alone in its micro-batch; in the second step no row has a label."""
    rows = [{"input_ids": torch.full((6,), 5 + n), "labels": torch.full((6,), n % 2)} for n in range(8)]
    for n in (1, 4, 5, 6, 7):
        rows[n]["labels"] = torch.full((6,), -100)
    trained = []
    for size in (1, 4):
        model, teacher = (tiny("bert", "ForTokenClassification", dtype=torch.float32) for _ in range(2))
        with torch.no_grad():
            teacher.classifier.weight.mul_(2)
        args = arguments(
            tmp_path,
            2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            train_sampling_strategy="sequential",
        )
        terms = [Labels(), Logits()]
        PruningTrainer(model, teacher=teacher, objective=terms, args=args, train_dataset=rows).train()
        trained.append(model.classifier.weight)
    assert torch.allclose(*trained, atol=1e-5)


def test_nothing_may_be_none(tmp_path):
    made = trainer(tmp_path, [], None, select=None, objective=None, **QUIET)
    made.train()
    assert made.state.global_step == STEPS


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_is_passed_in_trains_gates_and_projections(tmp_path, scheduled):
    teacher = tiny("bert", dtype=torch.float32, seed=1)
    made = trainer(tmp_path, [], None, select=None, kind=Cofi, teacher=teacher, objective=[Logits(), Hidden()], **QUIET)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-3)
    made.optimizer = optimizer
    if scheduled:
        made.lr_scheduler = get_scheduler("linear", optimizer, 0, STEPS)
    gates = [parameter.clone() for parameter in made.method.parameters()]
    made.train()
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = [parameter for part in (made.method, made.terms) for parameter in part.parameters()]
    assert {id(parameter) for parameter in trained if parameter.requires_grad} <= held
    assert all(not torch.equal(own, old) for own, old in zip(made.method.parameters(), gates, strict=True))


def test_arguments_that_do_not_fit_are_refused_at_construction(tmp_path):
    with pytest.raises(UserError, match=r"TrainingArguments\(auto_find_batch_size\) does not fit PruningTrainer"):
        trainer(tmp_path, [], None, auto_find_batch_size=True)


# Called again

LOGGED = {"eval_strategy": "no", "logging_steps": 1}
LOGGED = {"eval_strategy": "no", "logging_steps": 1}


def rates(made):
    """The logged learning rates."""
    return [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]


@pytest.mark.parametrize("kind", [None, Grain])
def test_a_second_training_has_a_schedule_of_its_own(tmp_path, kind):
    options = {"method": kind is not None, "kind": kind, "select": None, "objective": [Labels()], **LOGGED}
    made = trainer(tmp_path, [], None, shrink=kind is not None, **options)
    made.train()
    first, alive = rates(made), None if kind is None else made.method.alive.clone()
    before = made.model.classifier.weight.detach().clone()
    made.train()
    assert rates(made) == first and first[0] == 1e-2 and len(first) == STEPS
    assert not torch.equal(made.model.classifier.weight, before)
    if kind is not None:
        assert not alive.all() and torch.equal(made.method.alive, alive)  # what was removed stays removed


def test_a_second_training_continues_a_schedule_that_was_passed_in(tmp_path):
    made = trainer(tmp_path, [], None, method=False, select=None, objective=[Labels()], **LOGGED)
    made.optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-2)
    made.lr_scheduler = get_scheduler("linear", made.optimizer, 0, 2 * STEPS)
    made.train()
    first = rates(made)
    made.train()
    assert rates(made)[0] < first[-1]


def test_a_training_after_an_interrupted_one_begins_anew(tmp_path):
    callback = Interrupt(KeyboardInterrupt(), step=2)
    made = trainer(tmp_path, [], callback, select=None, kind=Grain, objective=[Labels()], **LOGGED)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.remove_callback(callback)
    made.train()
    assert rates(made)[0] == 1e-2 and made.state.global_step == STEPS


# A loss of one's own


class OfTransformers(PruningTrainer):
    """A loss as the pages of transformers show it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Doubled(PruningTrainer):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("method", [True, False])
def test_a_loss_of_ones_own_that_leaves_the_terms_out_is_refused_at_the_first_step(tmp_path, method):
    made = trainer(tmp_path, [], None, kind=Grain, method=method, select=None, objective=[Labels()], **LOGGED)
    made.__class__ = OfTransformers
    before = made.model.classifier.weight.detach().clone()
    with pytest.raises(UserError, match=r"compute_loss of OfTransformers .*super\(\)\.compute_loss .*pass objective"):
        made.train()
    assert torch.equal(made.model.classifier.weight, before)  # no step was taken


def test_a_loss_of_ones_own_may_add_to_that_of_the_trainer(tmp_path):
    made = trainer(tmp_path, [], None, kind=Grain, select=None, objective=[Labels()], **LOGGED)
    made.__class__ = Doubled
    made.train()
    assert made.method.importance.sum() > 0 and not made.method.alive.all()


# Classes of one's own that are not registered


class InOrder(Scheduled):
    def scores(self):
        return torch.arange(len(self.space)).float()


class Entropy(Term):
    def forward(self, step):
        return torch.distributions.Categorical(logits=step.student.logits).entropy().mean()


def test_a_method_and_a_term_that_are_not_registered_are_called_by_their_classes(tmp_path):
    made = trainer(tmp_path, [], None, kind=InOrder, select=None, objective=[Labels(), Entropy()], **LOGGED)
    made.train()
    assert "loss_Entropy" in made.state.log_history[0]
    assert made.method.plan(density=0.6).method == "InOrder"
