"""Law 16: compensation changes nothing where nothing is removed, and never makes a sublayer's output worse.

While a model is trained it is the same whether the model is cut on the way or masked to the end.
"""

import copy

import pytest
import torch
from test_law_11_shrink import SETTLED, SHRINKING, STEPS, UNITS, Sizes, assert_close, gates, in_rounds, result, trainer
from tiny_models import CLASSIFIERS, LEADING, WRITERS, inputs, outputs, random_masks, tiny
from tiny_training import collate, examples

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.compensation import compensate
from secateur.surgery.cut import cut
from secateur.surgery.input_moments import outputs_at
from secateur.surgery.masking import attached


def batches(model, count=40):
    return [inputs(model, seed=seed) for seed in range(count)]


def refitted(which, density, *units, soft=False):
    """A model, its plan, its cut, and the same cut refitted."""
    model = tiny(*which)
    space = Space(model, *units)
    plan = Plan.of(space, random_masks(space, density, soft=soft))
    small = cut(model, plan)
    again = copy.deepcopy(small)
    return model, small, again, compensate(again, model, plan, batches(model))


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", LEADING)
def test_nothing_changes_where_nothing_is_removed(which, soft):
    _, small, again, done = refitted(which, 1.1, "head", "ffn", "hidden", soft=soft)
    assert done == []
    for (name, before), after in zip(small.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after), name


@pytest.mark.parametrize("which", LEADING)
def test_every_linear_that_lost_inputs_is_refitted_and_none_gets_worse(which):
    model, _, again, done = refitted(which, 0.6, "head", "ffn")
    space = Space(model, "head", "ffn")
    assert [one.path for one in done if one.before < one.after] == []
    lost = {row.path for row in space.table.rows if getattr(row, "into", None) in {*again.plan["groups"]}}
    assert len(done) >= max(1, len(lost))
    assert min(one.after / one.before for one in done if one.before > 1e-5) < 0.9


@pytest.mark.parametrize("which", LEADING)
def test_of_a_layer_without_units_the_bias_is_refitted_if_there_is_one(which):
    model = tiny(*which)
    space = Space(model, "head", "ffn")
    masks = random_masks(space, 0.7)
    layer = space.table.layers[0]
    masks[space.slices[f"{layer}.ffn"]] = masks[space.slices[f"{layer}.head"]] = 0.0
    plan = Plan.of(space, masks)
    done = compensate(cut(model, plan), model, plan, batches(model))
    assert done and [one.path for one in done if one.before < one.after] == []
    path = space.table.reader(f"{layer}.ffn").path
    assert [one.path for one in done if one.path == path] == [path] * (f"{path}.bias" in space.table.tensors)


def test_the_output_comes_nearer_to_that_of_the_model_before():
    model, small, again, _ = refitted(LEADING[0].values[0], 0.6, "head", "ffn")
    batch = inputs(model, seed=99)
    true, plain, repaired = (
        outputs(one, batch)[1][-1][batch["attention_mask"].bool()] for one in (model, small, again)
    )
    assert (repaired - true).square().mean() < 0.8 * (plain - true).square().mean()


def test_soft_masks_and_a_cut_residual_stream_are_refitted_to_the_dims_that_are_left():
    """And to the masks of what is kept: a neuron alone is removed, and little is lost, so that little changes."""
    model, _, _, done = refitted(("bert",), 0.7, "hidden", "ffn", soft=True)
    assert done and all(one.after <= one.before for one in done)
    space = Space(model, "hidden", "ffn", "sublayer")
    masks = random_masks(space, 1.1, soft=True)
    softened = masks.clone()
    masks[space.slices["0.ffn"].start] = 0.0
    plan, batch = Plan.of(space, masks), inputs(model, seed=99)
    small = cut(model, plan)
    with attached(model, space, softened):
        wanted = outputs(model, batch)[1][-1]
    plain = outputs(small, batch)[1][-1]
    compensate(small, model, plan, batches(model))
    assert (outputs(small, batch)[1][-1] - wanted).square().mean() < (plain - wanted).square().mean()


# While a model is trained

FIRST = CLASSIFIERS[0]
TRAINED = [
    *(pytest.param(*FIRST.values, name, UNITS[0], id=name) for name in SHRINKING),
    pytest.param(*FIRST.values, gates, UNITS[3], id="settled gates"),
    pytest.param(*FIRST.values, in_rounds, ("layer", *UNITS[0]), id="rounds"),
    *(pytest.param(*which.values, "grain", UNITS[3], id=which.id) for which in (*CLASSIFIERS[1:], WRITERS[-1])),
]


def trained(which, kind, units, folder, **options):
    torch.manual_seed(0)
    training = trainer(which, kind, units, folder, steps=SETTLED if kind is gates else STEPS, **options)
    sizes = Sizes(training)
    training.train()
    return training, sizes.seen


@pytest.mark.parametrize(("which", "kind", "units"), TRAINED)
def test_a_model_that_is_cut_on_the_way_is_refitted_as_the_masked_one(which, kind, units, tmp_path):
    plain, _ = trained(which, kind, units, tmp_path, shrink=False, refit=True)
    small, sizes = trained(which, kind, units, tmp_path, shrink=True, refit=True)
    assert_close(result(small), result(plain))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.9 * sizes[0]


KINDS = ["grain", "magnitude", pytest.param(gates, id="settled gates")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_that_leaves_nothing_out_changes_nothing(kind, tmp_path):
    training, _ = trained(FIRST.values[0], kind, UNITS[1], tmp_path, shrink=True, refit=True)
    before = {name: weight.clone() for name, weight in training.model.state_dict().items()}
    masks = training.method.eval().masks().detach().double()
    training.refit.to_plan(training.model, Plan.of(training.method.space, masks))
    after = training.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_plan_leaves_out_of_hard_and_soft_masks_is_made_up_for(kind, tmp_path):
    """The first feed-forward network loses half of the neurons that it has left: on the rows of the training."""
    training, _ = trained(FIRST.values[0], kind, UNITS[1], tmp_path, shrink=True, refit=True)
    student, space, masks = training.model, training.method.space, training.method.eval().masks().detach().double()
    fewer, own = masks.clone(), space.slices["0.ffn"]
    fewer[own] *= (masks[own] > 0).cumsum(0) % 2
    batch = {name: value for name, value in collate(examples()).items() if name != "labels"}
    path = space.table.reader("0.ffn").path

    def written(kept):
        with attached(student, space, kept):
            return outputs_at(student, batch, [path])[path]

    wanted, plain = written(masks), written(fewer)
    training.refit.to_plan(student, Plan.of(space, fewer))
    assert (written(fewer) - wanted).square().mean() < 0.8 * (plain - wanted).square().mean()
