"""GRAIN's golden tests that train: G2 (pruned units are inert), G7 (gradient separation) and G11 (resume)."""

import pytest
import torch
from quiet import arguments
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.training.checkpoints import last_checkpoint
from secateur.training.objectives import Hidden, Logits, Step
from secateur.training.trainer import PruningTrainer

# G2: pruned units are inert


def scramble_pruned(space, alive):
    """Write noise into every weight of the units that are not alive."""
    gone = {axis: values == 0 for axis, values in space.effective(alive.float()).items()}
    with torch.no_grad():
        for parameter in space.table.parameters:
            weight = space.model.get_parameter(parameter.name)
            for dim, axis in enumerate(parameter.axes):
                if axis in gone:
                    indices = gone[axis].nonzero().flatten()
                    shape = [len(indices) if d == dim else n for d, n in enumerate(weight.shape)]
                    weight.index_copy_(dim, indices, 10 * torch.randn(shape))


@pytest.mark.parametrize("faithful", [True, False])
def test_g02_pruned_units_are_inert_and_never_return(bert, batch, faithful):
    torch.manual_seed(0)
    model = bert()
    space = Space(model)
    method = Grain(space, cubic(1.0, 0.3, begin=0.2, end=0.4), beta=0.0, faithful=faithful)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with attached(model, space, method.masks) as attachment:
        for step in range(1, 91):  # the choice ends at 40, 50 optimizer steps follow
            before = method.alive.clone()
            loss = model(**batch).loss
            gradient = torch.autograd.grad(loss, attachment.masks, retain_graph=True)[0]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.observe(gradient)  # beta = 0: the importance is this step's raw score
            assert bool((method.importance[~before] == 0).all())
            method.advance(step / 100)
            assert bool((method.alive <= before).all())
        assert 0.2 < space.density(method.alive) < 0.35
        with torch.no_grad():
            trained = model(**batch).logits
            scramble_pruned(space, method.alive)
            assert torch.equal(model(**batch).logits, trained)


# G7 and G11: the trainer


@pytest.fixture
def run(bert, rows, tmp_path):
    """Train a student (seed 0) with a teacher (seed 1) and return the trainer."""

    def train(objective, *, steps, folder="run", callbacks=(), dropout=0.0, resume=None, grain=None, **args):
        student = bert(seed=0, dropout=dropout)
        density = cubic(1.0, 0.3, begin=0.2, end=0.4)
        trainer = PruningTrainer(
            student,
            method=Grain(Space(student), density, **(grain or {})),
            teacher=bert(seed=1),
            objective=objective,
            args=arguments(tmp_path / folder, steps, **args),
            train_dataset=rows,
            callbacks=list(callbacks),
        )
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def test_g07_importance_does_not_depend_on_the_hidden_term(run):
    alone = run([Logits()], steps=1).method.importance
    beside = run([Logits(), Hidden()], steps=1).method.importance
    heard = run([Logits(), Hidden()], steps=1, grain={"separate": False}).method.importance
    assert bool((alone > 0).any())
    assert torch.equal(beside, alone)
    assert not torch.allclose(heard, alone, rtol=0.1)


class GradientsAreThoseOfTheSum(TrainerCallback):
    """At every step the optimizer sees the gradient of logits + hidden, for this step alone."""

    trainer: PruningTrainer
    steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        trainer, compute = self.trainer, PruningTrainer.compute_loss

        def remember(model, inputs, *more, **named):
            self.inputs = dict(inputs)
            return compute(trainer, model, inputs, *more, **named)

        trainer.compute_loss = remember

    def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs):
        student, teacher = (m(**self.inputs, output_hidden_states=True) for m in (model, self.trainer.teacher))
        step = Step(self.inputs, student, teacher)
        parameters = [*model.parameters(), *self.trainer.terms.parameters()]
        expected = torch.autograd.grad(sum(term(step) for term in self.trainer.terms), parameters)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)
        self.steps += 1


def test_g07_the_optimizer_sees_the_gradient_of_the_sum(run):
    callback = GradientsAreThoseOfTheSum()
    trainer = run([Logits(), Hidden()], steps=10, callbacks=[callback], max_grad_norm=0.0)
    assert callback.steps == 10
    assert trainer.method.space.density(trainer.method.alive) <= 0.3, "masks were at work in some of the steps"


def test_g07_a_scaled_loss_is_refused(run):
    """The specification requires scores that do not depend on the loss scale. Ours are computed without one.

    The gradient is taken from the loss before any scaler. In half precision it would underflow unnoticed,
    so fp16, the only mode that scales, is refused.
    """
    with pytest.raises(UserError, match="bf16 or fp32"):
        run([Logits()], steps=1, fp16=True)


class StopAt(TrainerCallback):
    """Saves and stops after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("stop", [2, 6, 13], ids=["warm-up", "pruning", "recovery"])
@pytest.mark.parametrize("faithful", [True, False])
def test_g11_resumed_equals_uninterrupted(run, tmp_path, stop, faithful):
    """20 steps, an epoch every 8: warm-up to 4, pruning to 8. Dropout is on."""
    same = {"steps": 20, "dropout": 0.1, "grain": {"beta": 0.5, "faithful": faithful}}
    whole = run([Logits(), Hidden()], folder="whole", **same)
    run([Logits(), Hidden()], folder="cut", callbacks=[StopAt(stop)], **same)
    checkpoint = last_checkpoint(tmp_path / "cut")
    assert checkpoint is not None and checkpoint.endswith(f"checkpoint-{stop}")
    resumed = run([Logits(), Hidden()], folder="cut", resume=checkpoint, **same)

    assert resumed.state.global_step == 20
    assert 0.2 < whole.method.space.density(whole.method.alive) < 0.35
    for part in ("model", "method", "terms"):
        expected = getattr(whole, part).state_dict()
        for name, value in getattr(resumed, part).state_dict().items():
            assert torch.equal(value, expected[name]), f"{part}: {name}"
