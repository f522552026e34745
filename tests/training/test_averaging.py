"""The mean of the weights of the last steps: of which, of what, and that a checkpoint keeps it."""

import pytest
import torch
from quiet import arguments
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from tiny_models import tiny
from torch import nn
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.methods.magnitude import Magnitude
from secateur.methods.schedules import cubic
from secateur.run import pipeline, recipe
from secateur.system.errors import UserError
from secateur.training.averaging import Averaging
from secateur.training.trainer import PruningTrainer

STEPS = 6


class Watch(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: value.detach().clone() for name, value in model.named_parameters()})


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer(folder, *callbacks, average=0.5, seed=0, frozen=True, **options):
    student = tiny("bert", dtype=torch.float32, dropout=0.1, seed=seed)
    if frozen:
        student.get_input_embeddings().requires_grad_(False)
    ids = torch.randint(5, 50, (8, 5), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 2} for i in ids]
    given = {name: options.pop(name) for name in ("select", "method") if name in options}
    return PruningTrainer(
        student,
        average=average,
        args=arguments(folder, STEPS, learning_rate=1e-2, **{"save_strategy": "no"} | options),
        train_dataset=rows,
        data_collator=collate,
        callbacks=list(callbacks),
        **given,
    )


def mean(seen):
    return {name: torch.stack([one[name].double() for one in seen]).mean(0) for name in seen[0]}


def assert_near(model, expected):
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("average", "counted"), [(0.5, 3), (1.0, 6), (0.01, 1), (0.34, 2)])
def test_the_result_is_the_average_of_the_weights_after_each_of_the_last_steps(tmp_path, average, counted):
    watch = Watch()
    made = trainer(tmp_path, watch, average=average)
    made.train()
    assert len(watch.seen) == STEPS
    assert_near(made.model, mean(watch.seen[-counted:]))


def test_without_averaging_the_last_weights_are_the_result(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, watch, average=0.0)
    made.train()
    assert made.averaging is None
    assert all(torch.equal(weight, watch.seen[-1][name]) for name, weight in made.model.named_parameters())


def test_averaging_does_not_change_the_training(tmp_path):
    with_, without = Watch(), Watch()
    trainer(tmp_path, with_).train()
    trainer(tmp_path, without, average=0.0).train()
    for mine, theirs in zip(with_.seen, without.seen, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_training_that_ends_early_averages_the_steps_that_counted(tmp_path):
    for step, first in ((5, 3), (2, 1)):
        watch = Watch()
        made = trainer(tmp_path, watch, StopAt(step))
        made.train()
        assert_near(made.model, mean(watch.seen[first:]))


def test_frozen_weights_are_neither_copied_nor_changed(tmp_path):
    made = trainer(tmp_path)
    table = made.model.get_input_embeddings().weight
    before = table.clone()
    trained = sum(weight.numel() for weight in made.model.parameters() if weight.requires_grad)
    assert made.averaging.mean.shape == (trained,)
    made.train()
    assert torch.equal(table, before)


def test_weights_of_less_precision_are_averaged_in_float32():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    averaging = Averaging(model, 1.0)
    for step, value in enumerate((1.0, 1.0078125, 1.0078125), 1):
        model.weight.data.fill_(value)
        averaging.add(step, 3)
    assert averaging.mean.item() == pytest.approx(1 + 2 / 3 * 0.0078125, abs=1e-6)
    averaging.take(3, 3)
    assert model.weight.dtype == torch.bfloat16 and model.weight.item() == 1.0078125


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resumed_training_gives_the_result_of_an_uninterrupted_one(tmp_path, step):
    whole = trainer(tmp_path, save_strategy="steps", save_steps=1)
    whole.train()
    resumed = trainer(tmp_path / "resumed", seed=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    mine, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert torch.equal(resumed.averaging.mean, whole.averaging.mean)


PARTS = (1.5, -0.5, "0.5", True)
"""No parts of the steps."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"average": part}, "average is .*: expected a number from 0 on and up to 1") for part in PARTS),
        (
            {"select": "score"},
            "averaged weights cannot be combined with a method or with select",
        ),
    ],
)
def test_an_impossible_part_of_the_steps_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, **options)


def test_weights_under_a_method_are_not_averaged(tmp_path):
    space = Space(tiny("bert", dtype=torch.float32), "ffn", "head")
    method = Magnitude(space, cubic(1.0, 0.5, begin=0.1, end=0.5))
    with pytest.raises(UserError, match="averaged weights cannot be combined with a method"):
        trainer(tmp_path, method=method)


# In a run


class WatchRecovery(Watch):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if args.output_dir.endswith("recover"):
            super().on_step_end(args, state, control, model, **kwargs)


def test_the_recovery_of_a_run_is_averaged_also_with_augmented_texts(tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    own = {
        "training.average": 0.4,
        "training.augment": 1,
        "training.evaluations": 0,
        "training.epochs": 2,
        "measurement.shapes": [],
    }
    watch = WatchRecovery()
    wanted = recipe.make(recipe_values(model, write_data(tmp_path / "data.csv")) | own)
    report = pipeline.run(wanted, tmp_path / "run", [watch])
    trained = report.recipe["training"]
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")["classifier.weight"]
    expected = mean(watch.seen[-round(0.4 * len(watch.seen)) :])["classifier.weight"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert (trained["average"], trained["augment"], report.rows["train"]) == (0.4, 1, 36)
