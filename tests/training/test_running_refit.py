"""The refit of a training at each removal: what it watches, when, and what it changes."""

from functools import partial

import pytest
import torch
from quiet import arguments
from tiny_models import inputs, tiny
from tiny_training import collate, examples, terms

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.method import Calibrated
from secateur.methods.schedules import cubic
from secateur.structure.plan import Plan
from secateur.surgery.input_moments import outputs_at
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.training.running_refit import EVERY, moments_bytes
from secateur.training.trainer import PruningTrainer

UNITS = ("ffn", "qk", "vo")


def trained(folder, *units, steps=6, which=("bert",), share=None, kind=Grain, **options):
    student = tiny(*which, seed=1)
    space = Space(student, *(units or UNITS))
    method = kind(space, cubic(1.0, 0.7, begin=0.1, end=0.9) if share is None else share)
    return PruningTrainer(
        student,
        method=method,
        teacher=tiny(*which, seed=2),
        objective=terms(student, project=False),
        args=arguments(folder, steps),
        train_dataset=examples(student.config.is_encoder_decoder),
        data_collator=collate,
        **options,
    )


class Counted:
    """The tokens that the moments of a training count after each step."""

    def __init__(self, trainer):
        self.trainer, self.counts = trainer, []
        trainer.step_taken = self.step_taken

    def step_taken(self):
        PruningTrainer.step_taken(self.trainer)
        self.counts.append([float(one.count) for one in self.trainer.refit.moments])


def test_the_readers_of_what_may_leave_are_watched_in_some_steps(tmp_path):
    training = trained(tmp_path, steps=EVERY + 2, refit=True)
    assert list(training.refit.paths) == ["0.vo", "0.ffn", "1.vo", "1.ffn"]
    numbers = sum(buffer.numel() for buffer in training.refit.buffers())
    assert moments_bytes(training.method.space) == 4 * numbers > 0
    counted = Counted(training)
    training.train()
    changed = [now != before for before, now in zip([[0.0] * 4, *counted.counts], counted.counts, strict=False)]
    assert changed == [step % EVERY == 0 for step in range(EVERY + 2)]
    real = sum(int(row["attention_mask"].sum()) for row in examples())
    assert len(set(counted.counts[0])) == 1 and 0 < counted.counts[0][0] < real  # padding is none of them


def test_what_cannot_lose_units_is_not_watched(tmp_path):
    assert list(trained(tmp_path, "ffn", refit=True).refit.paths) == ["0.ffn", "1.ffn"]
    assert list(trained(tmp_path, "qk", share=1.0, refit=True).refit.paths) == []
    assert trained(tmp_path).refit.state_dict() == {}


def test_targets_count_without_their_padding(tmp_path):
    training = trained(tmp_path, "ffn", which=("t5",), refit=True)
    labels = torch.tensor([[5, 6, -100], [7, -100, -100]])
    model, rows = training.model, inputs(training.model, seed=3)
    batch = {name: rows[name][:2] for name in ("input_ids", "attention_mask")} | {"labels": labels}
    with attached(model, training.method.space, training.method.masks().double()), training.refit.watching(batch, 0):
        model(**batch)
    counts = {
        axis: float(own._new.tokens) for axis, own in zip(training.refit.paths, training.refit.moments, strict=True)
    }
    assert counts == {
        axis: 3.0 if axis.startswith("decoder") else float(batch["attention_mask"].sum()) for axis in counts
    }


def test_nothing_changes_where_nothing_leaves(tmp_path):
    states = []
    for refit in (False, True):
        torch.manual_seed(0)
        training = trained(tmp_path, share=1.0, refit=refit)
        training.train()
        states.append(training.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_outputs_of_sublayers_stay_nearer_to_what_they_were(tmp_path):
    """On the rows that the moments are of, for the same removal with the refit and without it."""
    training = trained(tmp_path, "ffn", refit=True)
    model, method, space = training.model, training.method, training.method.space
    batches = [inputs(model, seed=seed) for seed in range(40)]
    path = space.table.reader("0.ffn").path
    with training.masks.attached(torch.device("cpu")):
        for batch in batches:
            with training.refit.watching(batch, 0):
                model(**batch)
        wanted = [outputs_at(model, batch, [path])[path] for batch in batches]
        method.alive[space.slices["0.ffn"]] = torch.arange(48) % 3 > 0
        plain = [outputs_at(model, batch, [path])[path] for batch in batches]
        method.alive[:] = True
        with training.refit.removals():
            method.alive[space.slices["0.ffn"]] = torch.arange(48) % 3 > 0
        repaired = [outputs_at(model, batch, [path])[path] for batch in batches]
    errors = [(torch.cat(found) - torch.cat(wanted)).square().mean() for found in (plain, repaired)]
    assert errors[1] < 0.5 * errors[0]


def test_a_plan_that_leaves_out_more_is_refitted_too(tmp_path):
    """Units of the method that the plan does not keep; weights of others stay as they are."""
    training = trained(tmp_path, "ffn", refit=True)
    training.train()
    student, space = training.model, training.method.space
    before = {name: value.clone() for name, value in student.state_dict().items()}
    masks = training.method.masks().detach()
    training.refit.to_plan(student, Plan.of(space, masks))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    fewer = masks.clone()
    fewer[space.slices["1.ffn"]] *= torch.arange(48) % 2
    training.refit.to_plan(student, Plan.of(space, fewer))
    changed = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    reader = space.table.reader("1.ffn").path
    assert changed == [f"{reader}.weight", f"{reader}.bias"]


def test_tiles_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tiles cannot be refitted.*method\.refit: false"):
        trained(tmp_path, "ffn/8x4", refit=True)


@pytest.mark.parametrize("name", METHODS.all())
def test_with_every_method_the_refit_changes_weights_or_is_refused(name, tmp_path):
    """With the same seed, by a schedule along which half of the heads and neurons go."""
    kind, states = METHODS.get(name), []
    if not kind.monotone:
        with pytest.raises(UserError, match=rf"{kind.__name__} closes units that may return.*method\.refit: false"):
            trained(tmp_path, "head", "ffn", kind=kind, refit=True)
        return
    for refit in (False, True):
        torch.manual_seed(0)
        training = trained(tmp_path, "head", "ffn", share=cubic(1.0, 0.5, begin=0.1, end=0.9), kind=kind, refit=refit)
        if isinstance(training.method, Calibrated):
            training.method.calibrate([collate(examples())])
        training.train()
        assert training.method.space.density(training.method.alive) <= 0.5
        states.append(training.model.state_dict())
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_gates_that_settle_are_refitted(tmp_path):
    """They are removed for good (law 16)."""
    assert trained(tmp_path, kind=partial(Cofi, settle=2), refit=True).refit.paths
