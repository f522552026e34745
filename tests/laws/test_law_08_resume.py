"""Law 8: a run resumed at step k equals an uninterrupted run, bit for bit: masks, weights, terms, logs."""

from functools import cache

import pytest
import torch
from test_laws_in_rounds import IN_ROUNDS
from tiny_models import CLASSIFIERS, METHODS, VECTORS
from tiny_training import STEPS, UNITS, losses, trainer
from transformers import Trainer

from secateur import methods
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled
from secateur.methods.schedules import cubic
from secateur.training import checkpoints as snapshots
from secateur.training.checkpoints import checkpoints, last_checkpoint
from secateur.training.trainer import PruningTrainer

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


# GRAIN removes units on its way, magnitude too, by weights that the refit changes, and gates may do once they settle.
REFITTED = [*(("grain", step, {}) for step in CUTS), ("magnitude", 3, {}), ("cofi", 3, {"settle": 1})]


@pytest.mark.parametrize(("name", "step", "options"), REFITTED)
def test_a_resumed_run_with_the_refit_equals_an_uninterrupted_one(name, step, options, tmp_path):
    which, training = CLASSIFIERS[0].values[0], {"refit": True, "shrink": True}
    whole = trainer(which, name, tmp_path, every=step, training=training, options=options)
    whole.train()
    resumed = trainer(which, name, tmp_path / "resumed", seed=3, save="no", training=training, options=options)
    assert any("moments" in key for key in state(resumed))
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(resumed, whole)


# A layer is removed with the second step, the model recovers until the fourth, where evidence is forgotten, and finer
# units are removed with the fifth and the sixth.
ROUNDS = {
    "units": ("layer", *UNITS),
    "schedule": cubic(0.5, 0.3, begin=0.7, end=1.0),
    "options": {"rounds": [CoarseRound("layer", keep=1, begin=0.0, end=0.3, recovered=0.6)]},
}
FORGETTING = [name for name in IN_ROUNDS if methods.METHODS.get(name).forget_evidence is not Scheduled.forget_evidence]


@pytest.fixture(scope="module")
def in_rounds(tmp_path_factory):
    """A function: the trainer of a method, after an uninterrupted training in rounds, with all its checkpoints."""

    @cache
    def trained(name):
        whole = trainer(CLASSIFIERS[0].values[0], name, tmp_path_factory.mktemp(name), **ROUNDS)
        counts, whole.step_taken = [], lambda: (PruningTrainer.step_taken(whole), counts.append(counted(whole.method)))
        whole.train()
        layers, finer = zip(*counts, strict=True)
        assert layers == (2, 1, 1, 1, 1, 1) and finer[1] == finer[3] > finer[4] > finer[5] > 0
        return whole

    return trained


def counted(method):
    """The layers and the finer units that are left."""
    own = method.rounds[0].units(method.space)
    return int((own & method.alive).sum()), int((~own & method.alive).sum())


def test_the_methods_that_forget_evidence_are_known():
    assert {"fisher", "grain", "michel"} <= set(FORGETTING)


@pytest.mark.parametrize(
    ("name", "step"), [(name, step) for name in IN_ROUNDS for step in ((1, 3, 4, 5) if name in FORGETTING else (3,))]
)
def test_a_run_resumed_in_any_round_equals_an_uninterrupted_one(in_rounds, tmp_path, name, step):
    """While layers are removed, while the model recovers, after its evidence was forgotten, and in the second round."""
    whole = in_rounds(name)
    resumed = trainer(CLASSIFIERS[0].values[0], name, tmp_path, seed=3, save="no", **ROUNDS)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
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
