"""What a trainer chooses, the best evaluation of those where the method has settled; and where it stops."""

import pytest
import torch
from quiet import arguments
from safetensors import safe_open
from tiny_models import tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.schedules import cubic
from secateur.system.errors import UserError
from secateur.training.checks import check_devices
from secateur.training.objectives import Labels, Term
from secateur.training.trainer import PruningTrainer

STEPS = 6


class Watch(TrainerCallback):
    """The weights and masks after each step."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer(
    folder,
    scores,
    watch,
    *,
    method=True,
    select="score",
    objective=(),
    kind=Magnitude,
    teacher=None,
    shrink=False,
    end=1.0,
    **options,
):
    """Six steps, scored after each; `scores` are what the evaluations find."""
    student = tiny("bert", dtype=torch.float32)
    space = Space(student, "ffn", "head")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (8, 5), generator=generator)
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 2} for i in ids]
    found = iter(scores)
    return PruningTrainer(
        student,
        method=kind(space, cubic(1.0, 0.6, begin=0.1, end=0.5)) if method else None,
        objective=objective,
        teacher=teacher,
        shrink=shrink,
        select=select,
        end=end,
        args=arguments(
            folder,
            STEPS,
            learning_rate=1e-2,
            **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "logging_strategy": "steps"} | options,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        compute_metrics=lambda prediction: {"score": next(found)},
        callbacks=[watch] if watch is not None else None,
    )


def assert_weights(model, expected):
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.2, 0.3, 0.9, 0.5, 0.4], 3),
        ([0.9, 0.9, 0.3, 0.3, 0.4, 0.2], 4),  # the first two are at a higher density: they do not count
        ([0.1, 0.2, 0.3, 0.5, 0.5, 0.4], 4),  # of equals the later, which was trained longer
    ],
)
def test_the_best_settled_evaluation_is_the_result(tmp_path, scores, best):
    watch = Watch()
    made = trainer(tmp_path, scores, watch)
    made.train()
    assert_weights(made.model, watch.seen[best])
    assert made.method.space.density(made.method.masks()) <= 0.6


def test_without_a_method_every_evaluation_counts(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.1, 0.9, 0.3, 0.3, 0.4, 0.2], watch, method=False)
    made.train()
    assert_weights(made.model, watch.seen[1])


@pytest.mark.parametrize(("strategy", "evaluations"), [({"eval_steps": 4}, 2), ({"eval_strategy": "epoch"}, 3)])
def test_the_last_weights_are_among_those_that_are_compared(tmp_path, caplog, strategy, evaluations):
    """Also where the steps between evaluations do not divide those of the training, and the ramp ends with these."""
    watch = Watch()
    made = trainer(tmp_path, [0.9, 0.8, 0.1][:evaluations], watch, end=0.5, **strategy)
    made.train()
    assert len(watch.seen) == evaluations
    assert_weights(made.model, watch.seen[-1])
    assert made.best.path.is_file() and "has chosen none" not in caplog.text


def test_by_default_the_last_weights_are_the_result(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.1, 0.9, 0.3, 0.3, 0.4, 0.2], watch, select=None)
    made.train()
    assert_weights(made.model, watch.seen[-1])
    assert not list(tmp_path.glob("best*"))


def test_free_pages_are_returned_with_every_batch_of_an_evaluation(tmp_path, monkeypatch):
    made, checked = trainer(tmp_path, [0.9], Watch()), []
    made.args.per_device_eval_batch_size = 2
    monkeypatch.setattr(made.free_pages, "check", lambda: checked.append(True))
    made.evaluate()
    assert len(checked) == 4


def test_an_evaluation_outside_training_is_not_kept(tmp_path):
    made = trainer(tmp_path, [0.9], Watch())
    made.evaluate()
    assert not list(tmp_path.glob("best*"))


def test_the_lowest_loss_is_selected(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.9, 0.1, 0.3, 0.3, 0.4, 0.2], watch, method=False, greater_is_better=False)
    made.train()
    assert_weights(made.model, watch.seen[1])


def test_the_best_of_an_earlier_training_does_not_count(tmp_path):
    trainer(tmp_path, [0.9] * 6, Watch(), method=False).train()
    watch = Watch()
    made = trainer(tmp_path, [0.1] * 6, watch, method=False)
    made.train()
    assert_weights(made.model, watch.seen[-1])


def test_a_selection_by_an_unknown_metric_stops_at_the_first_evaluation(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.1] * 6, watch, select="f1")
    with pytest.raises(UserError, match="select='f1' is not among the metrics of an evaluation: choose one of"):
        made.train()
    assert len(watch.seen) == 1


# What the model must be for masks


def test_a_process_with_several_gpus_is_refused(tmp_path, monkeypatch):
    """Trainer would copy the model to each of them in every step, without its masks."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match=r"one process sees 2 GPUs: start one for each \(torchrun --nproc_per_node 2\)"):
        trainer(tmp_path, [], Watch())


@pytest.mark.parametrize("shards", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_shards_that_others_make_are_refused(tmp_path, monkeypatch, shards):
    made = trainer(tmp_path, [], Watch())
    monkeypatch.setattr(made, shards, True)
    with pytest.raises(UserError, match=r"an accelerator that splits models .* make no Accelerator before the trainer"):
        check_devices(made.args, made.sharded_elsewhere)


# What is not finite


class Breaking(Term):
    """The task's loss; in one call of it, or in the backward of that call alone, times a value."""

    def __init__(self, call, value=float("nan"), name="breaking", backward=False):
        super().__init__()
        self.name, self.call, self.value, self.backward, self.calls = name, call, value, backward, 0

    def forward(self, step):
        self.calls += 1
        loss = step.student.loss
        if self.calls != self.call:
            return loss
        if not self.backward:
            return loss * self.value
        loss = loss.clone()
        loss.register_hook(lambda gradient: gradient * self.value)
        return loss


QUIET = {"eval_strategy": "no", "logging_steps": 1000}
SAVING = {**QUIET, "save_strategy": "steps", "save_steps": 2}
BREAKS = {
    "a loss": (Breaking(4), QUIET, r"the loss term 'breaking' is not finite at step 4 of 6"),
    "an infinite loss": (Breaking(4, float("inf")), QUIET, "the loss term 'breaking' is not finite at step 4 of 6"),
    "the last": (Breaking(6), QUIET, "'breaking' is not finite at step 6 of 6"),
    "a gradient": (Breaking(4, backward=True), QUIET, "the norm of the gradient is not finite at step 4 of 6"),
    "an infinite gradient": (
        Breaking(4, 1e39, backward=True),
        QUIET,
        "the norm of the gradient is not finite at step 4",
    ),
    "without clipping": (Breaking(4, backward=True), QUIET | {"max_grad_norm": 0.0}, "not finite at step 4 of 6"),
    "in bf16": (Breaking(4, backward=True), QUIET | {"bf16": True}, "at step 4 of 6 .*, or fp32 in place of bf16$"),
    "a part of a step": (Breaking(4), QUIET | {"gradient_accumulation_steps": 2}, "'breaking' is not finite at step 2"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_value_that_is_not_finite_stops_the_training(tmp_path, name):
    term, options, sentence = BREAKS[name]
    made = trainer(tmp_path, [], Watch(), select=None, objective=[Labels(), term], **options)
    with pytest.raises(UserError, match=sentence) as refusal:
        made.train()
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_the_gradient_of_the_masks_is_inspected(tmp_path):
    term = Breaking(2, name="logits", backward=True)
    made = trainer(tmp_path, [], Watch(), select=None, objective=[term], kind=Grain, **QUIET)
    assert "logits" in made.method.listens_to
    with pytest.raises(UserError, match="the gradient of the masks is not finite at step 2 of 6"):
        made.train()


def test_the_last_checkpoint_before_a_failure_stays(tmp_path):
    made = trainer(tmp_path, [], Watch(), select=None, objective=[Breaking(4)], save_total_limit=1, **SAVING)
    with pytest.raises(UserError, match="at step 4"):
        made.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    with safe_open(tmp_path / "checkpoint-2" / "model.safetensors", "pt") as saved:
        assert all(saved.get_tensor(name).isfinite().all() for name in saved.keys())  # noqa: SIM118


def test_values_are_checked_at_every_log_line(tmp_path):
    term = Breaking(2)
    made = trainer(tmp_path, [], Watch(), select=None, objective=[term], **QUIET | {"logging_steps": 3})
    with pytest.raises(UserError, match="at step 2 of 6"):
        made.train()
    assert term.calls == 3


def test_a_broken_model_is_never_the_best(tmp_path):
    made = trainer(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.9, 0.9], Watch(), objective=[Breaking(5)], logging_steps=1000)
    with pytest.raises(UserError, match="at step 5"):
        made.train()
    with safe_open(tmp_path / "best.safetensors", "pt") as best:
        assert best.metadata() == {"version": "1", "score": "0.4", "step": "4"}


def test_weights_are_inspected_before_they_become_the_result(tmp_path):
    made = trainer(tmp_path, [], Spoil(6), select=None, **QUIET)
    with pytest.raises(UserError, match="a weight is not finite at step 6 of 6"):
        made.train()


class Spoil(TrainerCallback):
    """Breaks a weight after a step, which no loss tells."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            model.classifier.bias.data.fill_(float("inf"))


@pytest.mark.parametrize("call", [2, 9], ids=["a consequence", "an error of its own"])
def test_an_error_that_follows_from_a_loss_that_is_not_finite_names_the_loss(tmp_path, monkeypatch, call):
    made = trainer(tmp_path, [], Watch(), select=None, objective=[Breaking(call)], **QUIET)

    def choke(progress):
        if made.state.global_step == 4:
            raise RuntimeError("no such thing")

    monkeypatch.setattr(made.method, "advance", choke)
    sentence = "'breaking' is not finite at step 2" if call == 2 else "no such thing"
    with pytest.raises(UserError if call == 2 else RuntimeError, match=sentence):
        made.train()


class Waits(TorchDispatchMode):
    """Counts how often a value is fetched from the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(options or {}))


def test_a_micro_batch_does_not_wait_for_the_device(tmp_path):
    made = trainer(tmp_path, [], Watch(), select=None, method=False, **QUIET)
    batch = collate(made.train_dataset[:2])
    made.model.train()
    with Waits() as forward:
        made.model(**batch)
    with Waits() as whole:
        made.compute_loss(made.model, batch)
        made.log({})
    assert whole.count == forward.count
    with Waits() as waits:
        made.log({"loss": 1.0})
    assert waits.count > 0
