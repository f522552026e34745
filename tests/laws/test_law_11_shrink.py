"""Law 11: a model that is cut during training equals one that is pruned to the end and cut once, up to rounding.

In float64 noise is noise: a gradient that went missing, a moment in the wrong place or another unit would be seen.
A method that learns its masks and closes for good what has settled does so with the cutting or without it.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from quiet import arguments
from tiny_models import CLASSIFIERS, LEADING, VECTORS, WRITERS, inputs, meeting_units, tiny
from tiny_training import collate, examples, rows_for, terms

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.rounds import CoarseRound
from secateur.methods.schedules import cubic, linear
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.surgery.shrinking import Shrinking
from secateur.system.errors import UserError
from secateur.training.checkpoints import last_checkpoint
from secateur.training.trainer import PruningTrainer

STEPS = 9  # of 6 an epoch
SETTLED = 12
"""Steps after which a good part of the gates has settled."""
SHRINKING = tuple(name for name, kind in METHODS.all().items() if kind.monotone and not kind.reads_weights)
UNITS = (("ffn", "qk", "vo"), ("head", "ffn"), ("sublayer", "ffn"), ("hidden", "head", "sublayer", "ffn", "qk", "vo"))
UNITS += (("attention/head", "ffn/tied"),)
# Any model meets all units at once, any classifier tiles too, and any method any units. Models are cut in fewer units
# too: classifiers in rounds, below, and all in `test_a_shrunk_model_is_the_masked_one_and_comes_back`.
TRAINED = meeting_units(LEADING, UNITS[3:4], SHRINKING) + meeting_units(CLASSIFIERS, UNITS[4:], SHRINKING)
TRAINED += meeting_units((*CLASSIFIERS[: len(SHRINKING)], *VECTORS), UNITS[:3], SHRINKING)
TRAINED += meeting_units(VECTORS, UNITS[3:4], SHRINKING)


def gates(space):
    """Gates of which half are closed at first and more soon; they settle after two steps."""
    method = Cofi(space, linear(1.0, 0.3, begin=0.1, end=0.3), learning_rate=1.0, settle=2, seed=0).double()
    with torch.no_grad():
        method.log_alpha.normal_(0.0, 4.0, generator=torch.Generator().manual_seed(0))
    return method


def every_other(space):
    """GRAIN that observes every other step."""
    return Grain(space, cubic(1.0, 0.2, begin=0.1, end=0.8), every=2)


def in_rounds(space):
    """GRAIN that removes one of the layers, forgets its evidence once the model has recovered, and then finer units."""
    layers = CoarseRound("layer", keep=1, begin=0.1, end=0.3, recovered=0.4)
    return Grain(space, cubic(0.5, 0.2, begin=0.5, end=0.8), rounds=[layers])


def trainer(which, kind, units, folder, *, shrink, seed=1, save="no", steps=STEPS, **extra):
    """`kind`: the name of a registered method on its schedule, or a function from a space to a method."""
    student, teacher = (tiny(*which, seed=s) for s in (seed, 2))
    space = Space(student, *units)
    method = kind(space) if callable(kind) else METHODS.get(kind)(space, cubic(1.0, 0.2, begin=0.1, end=0.8))
    args = arguments(
        folder,
        steps,
        learning_rate=1e-2,
        weight_decay=0.1,
        max_grad_norm=0.5,
        warmup_steps=1,
        save_strategy=save,
        save_steps=1,
    )
    return PruningTrainer(
        student,
        method=method,
        teacher=teacher,
        objective=terms(student, project=False),
        args=args,
        train_dataset=rows_for(student),
        data_collator=collate,
        shrink=shrink,
        **extra,
    )


def result(trainer):
    """The tensors of the cut model at the end of a training, its masks and its kept units."""
    plan = trainer.method.plan(trainer.method.share_schedule.stop)
    return cut(trainer.model, plan).state_dict() | {"masks": plan.masks, "kept": plan.kept}


def assert_close(mine, theirs, tolerance=1e-8):
    assert mine.keys() == theirs.keys()
    assert torch.equal(mine.pop("kept"), theirs.pop("kept"))
    far = {name: float((mine[name] - theirs[name]).abs().max()) for name in mine if mine[name].numel()}
    assert {name: distance for name, distance in far.items() if distance > tolerance} == {}


class Sizes:
    """The number of parameters of the model at each step."""

    def __init__(self, trainer):
        self.trainer, self.seen = trainer, []
        trainer.step_taken = self.step_taken

    def step_taken(self):
        PruningTrainer.step_taken(self.trainer)
        self.seen.append(self.trainer.model.num_parameters())


@pytest.mark.parametrize(("which", "units", "name"), TRAINED)
def test_shrinking_changes_nothing_but_the_cost(which, units, name, tmp_path):
    torch.manual_seed(0)
    plain = trainer(which, name, units, tmp_path, shrink=False)
    plain.train()
    torch.manual_seed(0)
    small = trainer(which, name, units, tmp_path, shrink=True)
    sizes = Sizes(small)
    names = list(small.model.state_dict())
    small.train()
    assert_close(result(small), result(plain))
    assert sizes.seen == sorted(sizes.seen, reverse=True) and sizes.seen[-1] < 0.9 * sizes.seen[0]
    assert len(set(sizes.seen)) > 2  # more than once
    assert list(small.model.state_dict()) == names and small.model.num_parameters() == plain.model.num_parameters()
    own = {id(parameter) for parameter in small.model.parameters() if parameter.requires_grad}
    held = {id(parameter) for group in small.optimizer.param_groups for parameter in group["params"]}
    assert own <= held


@pytest.mark.parametrize("which", CLASSIFIERS)
def test_shrinking_in_rounds_changes_nothing_but_the_cost(which, tmp_path):
    trained = []
    for shrink in (False, True):
        torch.manual_seed(0)
        trained.append(trainer(which, in_rounds, ("layer", *UNITS[0]), tmp_path, shrink=shrink))
        sizes = Sizes(trained[-1])
        trained[-1].train()
    assert_close(result(trained[1]), result(trained[0]))
    assert sizes.seen == sorted(sizes.seen, reverse=True) and len(set(sizes.seen)) > 2


def test_tiles_are_cut_away_when_their_rows_are(tmp_path):
    """With a diagonal of tiles nothing can be cut; a layer without tiles can."""
    training = trainer(*CLASSIFIERS[0].values, "grain", ("attention/4x4", "ffn/4x4"), tmp_path, shrink=True)
    method, space = training.method, training.method.space
    for group, grid in space.tiled.values():
        down, across = (torch.arange(tiles) % min(grid.shape) for tiles in grid.shape)
        method.alive[space.slices[group.name]] = (down.unsqueeze(1) == across).flatten()
    assert space.density(method.alive) < 0.2 and not training.shrinking.due()
    for group, _ in space.tiled.values():
        if group.name.startswith("0."):
            method.alive[space.slices[group.name]] = False
    assert training.shrinking.due()


@pytest.mark.parametrize(
    ("which", "units"),
    [pytest.param(*which.values, UNITS[3], id=which.id) for which in (*CLASSIFIERS, *VECTORS, WRITERS[-1])]
    + [pytest.param(*CLASSIFIERS[0].values, units, id="-".join(units)) for units in UNITS[:3]],
)
def test_cutting_settled_gates_changes_nothing_but_the_cost(which, units, tmp_path):
    torch.manual_seed(0)
    plain = trainer(which, gates, units, tmp_path, shrink=False, steps=SETTLED)
    plain.train()
    torch.manual_seed(0)
    small = trainer(which, gates, units, tmp_path, shrink=True, steps=SETTLED)
    sizes = Sizes(small)
    small.train()
    method = small.method
    assert torch.equal(method.alive, plain.method.alive) and method.space.density(method.alive) < 0.7
    assert torch.allclose(method.log_alpha, plain.method.log_alpha, atol=1e-8, rtol=0)
    assert_close(result(small), result(plain))
    assert sizes.seen == sorted(sizes.seen, reverse=True) and sizes.seen[-1] < 0.9 * sizes.seen[0]


def test_gates_that_never_settle_are_not_cut_away(tmp_path):
    trained = trainer(CLASSIFIERS[0].values[0], "cofi", UNITS[3], tmp_path, shrink=True)
    trained.train()
    assert trained.shrinking is None and bool(trained.method.alive.all())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function: the trainer of a kind of method over units, after an uninterrupted run with all its checkpoints."""

    @cache
    def trained(kind, units):
        folder = tmp_path_factory.mktemp("whole")
        found = trainer(CLASSIFIERS[0].values[0], kind, units, folder, shrink=True, save="steps")
        found.train()
        assert last_checkpoint(folder) == str(folder / f"checkpoint-{STEPS}")
        assert not bool(found.method.alive.all())
        return found

    return trained


@pytest.mark.parametrize(
    ("kind", "units"),
    [("grain", UNITS[0]), (every_other, UNITS[0]), (gates, UNITS[3]), (in_rounds, ("layer", *UNITS[0]))],
    ids=["grain", "every", "cofi", "rounds"],
)
@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_resumed_run_has_the_shapes_that_it_had(whole, tmp_path, step, kind, units):
    resumed = trainer(CLASSIFIERS[0].values[0], kind, units, tmp_path, shrink=True, seed=3)
    checkpoint = Path(whole(kind, units).args.output_dir) / f"checkpoint-{step}"
    resumed.train(resume_from_checkpoint=str(checkpoint))
    mine, theirs = result(resumed), result(whole(kind, units))
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_the_best_evaluation_has_the_shapes_of_the_end(tmp_path):
    """The best weights are saved once the method has reached its target; nothing is cut from then on."""
    which = CLASSIFIERS[0].values[0]
    chosen = trainer(which, "grain", UNITS[0], tmp_path, shrink=True, select="score", eval_dataset=examples())
    chosen.compute_metrics = lambda found: {"score": 1.0}
    chosen.args.eval_strategy, chosen.args.eval_steps = "steps", 1
    chosen.train()
    assert (tmp_path / "best.safetensors").is_file()
    assert chosen.method.space.density(chosen.method.alive) <= 0.2


@pytest.mark.parametrize("units", UNITS, ids="-".join)
@pytest.mark.parametrize("which", LEADING)
def test_a_shrunk_model_is_the_masked_one_and_comes_back(which, units):
    """Cut in place twice and restored: the same outputs each time, and 0 where it was cut."""
    model, batch = tiny(*which), None
    batch = inputs(model)
    space = Space(model, *units)
    order = torch.rand(len(space), generator=torch.Generator().manual_seed(3))
    shrinking = Shrinking(model, space)
    for density in (0.6, 0.3):
        kept = space.choose(order, density)
        reference = tiny(*which)
        with attached(reference, Space(reference, *units), kept.double()), torch.no_grad():
            wanted = reference(**batch).logits
        shrinking.cut(kept)
        with attached(model, space, kept.double()) as attachment, torch.no_grad():
            attachment.detach()
            attachment.attach(shrinking.stored)
            assert torch.allclose(model(**batch).logits, wanted, atol=1e-10, rtol=0)
    whole = shrinking.full_state()
    shrinking.restore()
    assert whole.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.items())
    with attached(model, space, kept.double()), torch.no_grad():
        assert torch.allclose(model(**batch).logits, wanted, atol=1e-10, rtol=0)
    stock = tiny(*which).state_dict()
    assert all(torch.equal(value[value != 0], stock[name][value != 0]) for name, value in model.state_dict().items())


def test_moments_are_cut_with_their_weights():
    model = tiny(*CLASSIFIERS[0].values[0])
    space = Space(model, "ffn", "qk", "vo")
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": parameter.detach() * 2}
    kept = space.choose(torch.rand(len(space), generator=torch.Generator().manual_seed(0)), 0.4)
    shrinking = Shrinking(model, space)
    shrinking.cut(kept, optimizer)
    assert Plan.of(space, kept.float(), source="").masks.bool().equal(shrinking.kept)
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert state["step"] == 3.0 and torch.equal(state["exp_avg"], parameter * 2)
    assert len(optimizer.state) == len(list(model.parameters()))


def test_factored_moments_are_refused_before_anything_is_cut():
    model = tiny(*CLASSIFIERS[0].values[0])
    space, shapes = Space(model, "ffn"), {name: value.shape for name, value in model.named_parameters()}
    optimizer = torch.optim.Adafactor(model.parameters())
    model(**inputs(model)).logits.sum().backward()
    optimizer.step()
    with pytest.raises(UserError, match=r"Adafactor keeps moments .*: train without shrink, or use AdamW"):
        Shrinking(model, space).cut(torch.arange(len(space)) > 5, optimizer)
    assert {name: value.shape for name, value in model.named_parameters()} == shapes


def test_a_method_that_reads_the_weights_keeps_them(tmp_path):
    which = CLASSIFIERS[0].values[0]
    trained = trainer(which, "magnitude", UNITS[0], tmp_path, shrink=True)
    sizes = Sizes(trained)
    trained.train()
    assert len(set(sizes.seen)) == 1
