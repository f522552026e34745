"""Law 11, to the end of a run: recovering a cut model equals training the masked model on and cutting it once.

Optimizer's moments, learning rate and the order of the rows go on where pruning left them.
"""

import pytest
import torch
from quiet import arguments
from test_law_11_shrink import SHRINKING
from tiny_models import CLASSIFIERS, VECTORS, WRITERS, tiny
from tiny_training import collate, rows_for, terms
from tiny_training import trainer as pruning_trainer

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.schedules import cubic
from secateur.surgery.cut import cut, cut_moments
from secateur.system.errors import UserError
from secateur.training.trainer import PruningTrainer

PRUNING, RECOVERY = 9, 7  # of 6 steps an epoch, of which the last is short: the cut is within one, and so is the end
END = PRUNING / (PRUNING + RECOVERY)


def objective(model, teacher):
    chosen = terms(model)
    for term in chosen:
        term.bind(model, teacher)
    return [term.double() for term in chosen]


def trainer(model, which, folder, steps, **extra):
    teacher = tiny(*which, seed=2)
    return PruningTrainer(
        model,
        teacher=teacher,
        args=arguments(
            folder,
            steps,
            learning_rate=1e-2,
            weight_decay=0.1,
            max_grad_norm=0.5,
            warmup_steps=2,
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=rows_for(model)[:-2],
        data_collator=collate,
        **{"objective": objective(model, teacher)} | extra,
    )


def pruned(which, name, folder, steps, units=("head", "ffn", "qk"), **extra):
    """A training with a method that reaches its density after `PRUNING` steps."""
    torch.manual_seed(0)
    model = tiny(*which, seed=1)
    method = METHODS.get(name)(Space(model, *units), cubic(1.0, 0.2, begin=0.1, end=END))
    training = trainer(model, which, folder, steps, method=method, **extra)
    training.train()
    return training


def recovered(first, which, folder, **changed):
    """The cut model of a training, trained on to the end of the run."""
    plan = first.method.plan(0.2)
    moments = first.moments()
    moments["model"] = cut_moments(first.model, plan, moments["model"])
    going_on = {"moments": moments, "rows_seen": first.rows_taken, "objective": first.objective, "begin": END}
    second = trainer(cut(first.model, plan), which, folder, RECOVERY, **going_on | changed)
    second.train()
    return second


def distance(mine, wanted):
    assert mine.keys() == wanted.keys()
    return max(float((mine[key] - wanted[key]).abs().max()) for key in mine if mine[key].numel())


MODELS = (*CLASSIFIERS, *VECTORS, WRITERS[0], WRITERS[-1])
# Every model with a method, and every method with a model.
MOST = max(len(MODELS), len(SHRINKING))
PAIRS = [(MODELS[turn % len(MODELS)], SHRINKING[turn % len(SHRINKING)]) for turn in range(MOST)]
CASES = [pytest.param(*which.values, name, id=f"{which.id}-{name}") for which, name in PAIRS]


@pytest.mark.parametrize(("which", "name"), CASES)
def test_a_cut_model_recovers_as_the_masked_one_does(which, name, tmp_path):
    """Cut while it is pruned by every method, and cut at the end alone by one."""
    whole = pruned(which, name, tmp_path, PRUNING + RECOVERY)
    wanted = cut(whole.model, whole.method.plan(0.2)).state_dict()
    for shrink in (True, False) if name == SHRINKING[0] else (True,):
        first = pruned(which, name, tmp_path, PRUNING, end=END, shrink=shrink)
        second = recovered(first, which, tmp_path)
        assert distance(second.model.state_dict(), wanted) < 1e-8
        assert distance(second.terms.state_dict(), whole.terms.state_dict()) < 1e-8


@pytest.mark.parametrize("without", ["moments", "rows_seen"])
def test_neither_moments_nor_the_order_can_be_left_out(without, tmp_path):
    which = CLASSIFIERS[0].values[0]
    whole = pruned(which, "grain", tmp_path, PRUNING + RECOVERY)
    first = pruned(which, "grain", tmp_path, PRUNING, end=END, shrink=True)
    second = recovered(first, which, tmp_path, **{without: 0 if without == "rows_seen" else None})
    assert distance(second.model.state_dict(), cut(whole.model, whole.method.plan(0.2)).state_dict()) > 1e-4


def test_the_moments_of_projections_are_cut_with_the_stream(tmp_path):
    which, units = CLASSIFIERS[0].values[0], ("hidden", "ffn")
    whole = pruned(which, "grain", tmp_path, PRUNING + RECOVERY, units)
    plan = whole.method.plan(0.2)
    second = recovered(pruned(which, "grain", tmp_path, PRUNING, units, end=END), which, tmp_path)
    left = plan.read(whole.method.space).indices("hidden")
    assert len(left) < whole.model.config.hidden_size
    assert distance(second.model.state_dict(), cut(whole.model, plan).state_dict()) < 1e-8
    wanted = {name: own[:, left] if own.dim() == 2 else own for name, own in whole.terms.state_dict().items()}
    assert distance(second.terms.state_dict(), wanted) < 1e-8


def test_moments_of_the_model_before_its_cut_are_refused(tmp_path):
    which = CLASSIFIERS[0].values[0]
    first = pruned(which, "grain", tmp_path, PRUNING, end=END)
    with pytest.raises(
        UserError, match=r"the moments of bert\..* have the shape .*: pass the moments of this parameter, .*cut_moments"
    ):
        recovered(first, which, tmp_path, moments=first.moments())


def test_a_stage_that_began_with_moments_is_resumed_when_its_model_has_shrunk(tmp_path):
    """Its checkpoint has moments of its own, of the shapes that the model has there."""
    which = CLASSIFIERS[0].values[0]
    first = pruning_trainer(which, "grain", tmp_path / "first", save="no")
    first.train()
    options = {"shrink": True, "moments": first.moments()}
    whole, resumed = (pruning_trainer(which, "grain", tmp_path / "second", training=options) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "second" / "checkpoint-4"))
    assert distance(resumed.model.state_dict(), whole.model.state_dict()) == 0
