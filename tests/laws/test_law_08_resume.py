"""Law 8: a run resumed at step k equals an uninterrupted run, bit for bit: masks, weights, terms, logs."""

import pytest
import torch
from tiny_models import CLASSIFIERS, METHODS, VECTORS
from tiny_training import STEPS, losses, trainer
from transformers import Trainer

from secateur.training import checkpoints as snapshots
from secateur.training.checkpoints import checkpoints, last_checkpoint

CUTS = (1, 3, 5)  # in warm-up, while pruning, in recovery
# Any model and any method are resumed at each of the steps, but seldom together: a method knows of a model only its
# units. A student without a method, which is a compact one, is each of the models.
MODELS = (*CLASSIFIERS, *VECTORS)
RESUMED = [
    (which, METHODS[(row * len(CUTS) + column) % len(METHODS)], step)
    for row, which in enumerate(MODELS)
    for column, step in enumerate(CUTS)
] + [(which, None, CUTS[row % len(CUTS)]) for row, which in enumerate(MODELS)]
RESUMED = [pytest.param(*which.values, name, step, id=f"{which.id}-{name}-{step}") for which, name, step in RESUMED]


def state(trainer):
    """Every number that a run ends with."""
    parts = {"model": trainer.model, "terms": trainer.terms, "refit": trainer.refit}
    if trainer.method is not None:
        parts["method"] = trainer.method
    return torch.nn.ModuleDict(parts).state_dict()


def assert_same(resumed, whole):
    mine, theirs = state(resumed), state(whole)
    assert list(mine) == list(theirs)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    if whole.method is not None:
        assert torch.equal(resumed.method.plan(0.3).masks, whole.method.plan(0.3).masks)
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == STEPS


@pytest.mark.parametrize(("which", "name", "step"), RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one(which, name, step, tmp_path):
    whole = trainer(which, name, tmp_path, every=step)
    whole.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{STEPS}")
    if name is not None:
        assert whole.method.space.density(whole.method.eval().masks()) <= 0.4
    resumed = trainer(which, name, tmp_path / "resumed", seed=3, save="no")  # other weights at first
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(resumed, whole)


def test_a_resumed_run_under_an_exact_constraint_equals_an_uninterrupted_one(tmp_path):
    which, step, options = CLASSIFIERS[0].values[0], CUTS[1], {"constraint": "exact"}
    whole = trainer(which, "cofi", tmp_path, every=step, options=options)
    whole.train()
    resumed = trainer(which, "cofi", tmp_path / "resumed", seed=3, save="no", options=options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(resumed, whole)


@pytest.mark.parametrize("step", CUTS)
def test_a_resumed_run_with_the_refit_equals_an_uninterrupted_one(step, tmp_path):
    which, options = CLASSIFIERS[0].values[0], {"refit": True, "shrink": True}
    whole = trainer(which, "grain", tmp_path, every=step, training=options)
    whole.train()
    resumed = trainer(which, "grain", tmp_path / "resumed", seed=3, save="no", training=options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(resumed, whole)


class Killed(BaseException):
    """An exception that neither our code nor Trainer catches."""


# What is called, in this order, while a checkpoint is written and the one before it goes.
MOMENTS_OF_A_CHECKPOINT = {
    "weights": (Trainer, "save_model"),
    "optimizer": (Trainer, "_save_optimizer_and_scheduler"),
    "random state": (Trainer, "_save_rng_state"),
    "our state": (snapshots, "save_tensors"),
    "the old one": (snapshots.shutil, "rmtree"),
}


def killed_at(monkeypatch, place, name, *, after):
    """A function that kills the process the third time that it is called, before its work or after it."""
    work, calls = getattr(place, name), []

    def kill(*args, **kwargs):
        calls.append(args)
        if len(calls) < 3:
            return work(*args, **kwargs)
        if after:
            work(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(place, name, kill)


@pytest.fixture(scope="module")
def with_one_checkpoint(tmp_path_factory):
    """(model, trainer) of an uninterrupted training that keeps one checkpoint."""
    which, folder = CLASSIFIERS[0].values[0], tmp_path_factory.mktemp("whole")
    whole = trainer(which, "grain", folder, keep=1)
    whole.train()
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{STEPS}"]
    return which, whole


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", MOMENTS_OF_A_CHECKPOINT)
def test_there_is_always_a_complete_checkpoint(with_one_checkpoint, tmp_path, monkeypatch, moment, after):
    """With a limit of one there are never more than two checkpoints, and a run killed at any moment resumes."""
    which, whole = with_one_checkpoint
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, *MOMENTS_OF_A_CHECKPOINT[moment], after=after)
        trainer(which, "grain", tmp_path / "killed", keep=1).train()
    assert len(checkpoints(tmp_path / "killed")) <= 2
    last = last_checkpoint(tmp_path / "killed")
    assert last is not None
    resumed = trainer(which, "grain", tmp_path / "killed", seed=3, keep=1)
    resumed.train(resume_from_checkpoint=last)
    assert_same(resumed, whole)
    assert [path.name for path in checkpoints(tmp_path / "killed")] == [f"checkpoint-{STEPS}"]


def test_a_folder_of_the_users_is_no_checkpoint(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
