"""The registry, the two baselines, and a method that a user writes."""

import pytest
import torch
from golden_bert import build_bert
from quiet import arguments
from tiny_models import METHODS, MONOTONE, taught, tiny
from transformers import TrainerCallback

from secateur import methods
from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.method import Method
from secateur.methods.random import Random
from secateur.methods.schedules import linear
from secateur.structure.space import UNITS
from secateur.system.errors import UserError
from secateur.training.trainer import PruningTrainer


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"))


# The registry


def test_every_method_is_known_by_its_name():
    assert {
        "cofi": Cofi,
        "grain": Grain,
        "magnitude": Magnitude,
        "random": Random,
    }.items() <= methods.METHODS.all().items()
    assert all(
        methods.METHODS.get(name) is method and method.name == name for name, method in methods.METHODS.all().items()
    )


def test_an_unknown_name_gets_the_nearest_or_all():
    with pytest.raises(UserError, match=r"'magnitud' is not known: did you mean 'magnitude'\?$"):
        methods.METHODS.get("magnitud")
    with pytest.raises(UserError, match=rf"'xyz' is not known: known are {', '.join(METHODS)}$"):
        methods.METHODS.get("xyz")


def test_a_users_own_method_works_once_registered(space, monkeypatch):
    monkeypatch.setattr(methods.METHODS, "_items", methods.METHODS.all())  # a copy: the laws go on without it

    @register("last-first")
    class LastFirst(Method):
        def scores(self):
            return torch.arange(len(self.space), dtype=torch.float)

    assert methods.METHODS.get("last-first") is LastFirst
    plan = methods.METHODS.get("last-first")(space).plan(0.3)
    assert plan.method == "last-first" and plan.asked == 0.3
    assert 0.25 < plan.achieved["prunable"] <= 0.3
    rows = space.slices
    assert plan.kept[rows["1.vo"]].all() and not plan.kept[rows["0.ffn"]].any()  # the space ends with 1.vo


def test_a_method_without_scores_says_what_to_write(space):
    with pytest.raises(NotImplementedError, match=r"write scores\(\)"):
        Method(space).scores()


# Magnitude


@pytest.fixture(scope="module")
def known():
    """One layer, hidden 4, 2 heads of 2, 2 neurons; every weight 0 but five rows."""
    model = tiny("bert", hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=2)
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer.intermediate.dense.weight[1] = 3.0  # squares: 4 x 9
        layer.intermediate.dense.bias[1] = 1.0
        layer.output.dense.weight[:, 1] = 2.0  # 4 x 4
        layer.attention.self.query.weight[2] = 1.0  # 4 x 1
        layer.attention.self.value.bias[3] = 3.0
        layer.output.LayerNorm.weight[:] = 100.0  # norms and output biases go with no unit
        layer.output.dense.bias[:] = 100.0
    return model


MEAN_SQUARES = {
    "ffn": [0, 53 / 9],  # a neuron has 4 weights in, 1 bias, 4 out
    "qk": [0, 0, 4 / 10, 0],  # 4 weights and 1 bias, of query and of key
    "vo": [0, 0, 0, 9 / 9],  # 4 weights, 1 bias, 4 of the output
    "head": [0, 13 / 38],  # 2 QK and 2 VO dims
    "sublayer": [13 / 76, 53 / 18],  # query, key, value: 20 each, 16 of the output; the FFN
    "layer": [(13 + 53) / (76 + 18)],
    "hidden": [(1 + 9 + 4) / 20] * 4,  # query, key, value: 4 each; attention's output 4; 2 into and 2 out of the FFN
}


@pytest.mark.parametrize("kind", UNITS)
def test_magnitude_is_the_root_mean_square_of_a_units_weights(known, kind):
    expected = torch.tensor(MEAN_SQUARES[kind]).float().sqrt()
    torch.testing.assert_close(Magnitude(Space(known, kind)).scores(), expected)


def test_magnitude_keeps_the_larger(known):
    plan = Magnitude(Space(known, "ffn")).plan(0.95)
    assert plan.masks.tolist() == [0.0, 1.0]
    assert plan.achieved["prunable"] == pytest.approx((76 + 9) / (76 + 18))


# Random


def test_random_follows_torchs_seed_not_its_state(space):
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        torch.rand(len(orders))  # what was drawn before does not matter
        orders.append(Random(space).scores())
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_random_with_its_own_seed_ignores_torchs_and_leaves_it(space):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = Random(space, seed=7).scores()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first, Random(space, seed=7).scores())
    assert not torch.equal(first, Random(space, seed=8).scores())


# Multiples


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("names", [("ffn", "qk", "vo"), ("hidden", "head", "sublayer", "ffn")], ids="-".join)
def test_every_method_comes_to_multiples(name, names):
    space = Space(tiny("bert"), *names, round_to=8)
    plan = taught(name, space, density=0.6).plan(0.4)
    assert 0 < plan.achieved["prunable"] <= 0.4
    for group in space.groups:
        if group.size > space.table.heads:
            parts = space.table.heads if group.kind in ("qk", "vo") else 1
            assert not bool((plan.kept[space.slices[group.name]].view(parts, -1).sum(dim=1) % 8).any())


def test_what_sets_sizes_itself_refuses_multiples():
    space = Space(tiny("bert"), "ffn", "head", round_to=8)
    with pytest.raises(UserError, match="a shape says every size itself"):
        Cofi(space, 1.0, shape={"ffn": 16})
    with pytest.raises(UserError, match="leave faithful out"):
        Grain(space, faithful=True)


# What is gone for good


@pytest.mark.parametrize("name", [*MONOTONE, "cofi", "subset", "voita"])
def test_what_is_not_alive_is_closed_everywhere(name):
    """In training, in evaluation and in the plan, whatever the evidence; and it gets no gradient."""
    space = Space(tiny("bert"), "ffn", "head")
    method = taught(name, space, density=0.9)
    gone = torch.rand(len(space), generator=torch.Generator().manual_seed(1)) < 0.5
    method.alive &= ~gone
    assert not bool(method.eval().masks()[gone].any()) and not bool((method.plan(0.9).kept & gone).any())
    masks = method.train().masks()
    assert not bool(masks[gone].any()) and bool(masks.any())
    if masks.requires_grad:
        masks.square().sum().backward()
        own = [parameter.grad for parameter in method.parameters() if parameter.shape == gone.shape]
        assert own and not any(bool(gradient[gone].any()) for gradient in own)


# Evidence from some of the steps


def heard(every, steps, gradient, **options):
    """GRAIN after so many steps of one gradient, and the steps in which it listened."""
    method = Grain(Space(tiny("bert")), linear(1.0, 0.5, begin=0.4, end=0.9), every=every, **options)
    listened = []
    for step in range(steps):
        if method.listens_to:
            listened.append(step)
            method.observe(gradient)
        method.advance((step + 1) / 100)
    return method, listened


def test_evidence_is_taken_from_one_step_in_every_so_many(space):
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    assert heard(1, 8, gradient)[1] == list(range(8))
    assert heard(3, 8, gradient)[1] == [0, 3, 6]
    assert heard(7, 95, gradient)[1] == [*range(0, 90, 7)], "and none once the choice has ended"


@pytest.mark.parametrize("every", [2, 4, 8])
def test_the_moving_average_remembers_as_many_steps(space, every):
    """Of one gradient ever again it knows 1 - beta^steps, heard in each of the steps or in some of them."""
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    some, all_ = (heard(n, 32, gradient, beta=0.9, alpha=0.0)[0].importance for n in (every, 1))
    torch.testing.assert_close(some, all_)
    torch.testing.assert_close(some, (1 - 0.9**32) * gradient)


def test_one_step_in_one_is_bit_for_bit_the_published_average(space):
    gradient = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    expected = torch.zeros_like(gradient)
    for _ in range(5):
        expected.mul_(0.998).add_(gradient, alpha=1.0 - 0.998)
    assert torch.equal(heard(1, 5, gradient, alpha=0.0)[0].importance, expected)


def test_a_step_that_is_heard_is_heard_whole(tmp_path):
    """Two micro-batches of four rows are one batch of eight; the step after it changes nothing."""

    def importance(steps, rows, micro_batches):
        model = build_bert()
        method = Grain(Space(model), linear(1.0, 0.5, begin=0.5, end=0.9), every=2)
        noise = torch.Generator().manual_seed(0)
        ids = torch.randint(1, 50, (16, 5), generator=noise)
        PruningTrainer(
            model,
            method=method,
            args=arguments(
                tmp_path,
                4,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=micro_batches,
            ),
            train_dataset=[{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 3} for i in ids],
            callbacks=[StopAfter(steps)],
        ).train()
        return method.importance

    whole, parts = importance(1, 8, 1), importance(1, 4, 2)
    torch.testing.assert_close(parts, whole, atol=1e-7, rtol=1e-4)
    assert torch.equal(importance(2, 4, 2), parts) and not torch.equal(importance(3, 4, 2), parts)


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_number_of_steps_that_is_none_is_refused(space, every):
    with pytest.raises(UserError, match=f"every is {every}: expected a whole number of steps from 1 on"):
        Grain(space, every=every)


# A shape in place of a density


def test_gates_learn_a_shape():
    """Every layer's row comes to its own target, and the plan has exactly the shape."""
    space = Space(tiny("bert", num_hidden_layers=3), "layer", "head", "ffn")
    shape = {"layer": 2, "head": 3, "ffn": 20}
    method = Cofi(space, linear(1.0, 0.9, begin=0.0, end=0.4), shape=shape, learning_rate=0.05, seed=0)
    optimizer = torch.optim.AdamW(method.param_groups())
    for step in range(800):
        method.penalty().backward()
        optimizer.step()
        optimizer.zero_grad()
        method.advance((step + 1) / 800)
    assert all(float(gap.detach().abs().max()) < 0.03 for gap in method.gaps())
    kept = {group.name: int(method.plan(0.9).kept[space.slices[group.name]].sum()) for group in space.groups}
    left = [layer for layer in range(3) if kept[f"{layer}.layer"]]
    assert len(left) == 2
    assert {kept[f"{layer}.head"] for layer in left} == {3} and {kept[f"{layer}.ffn"] for layer in left} == {20}


@pytest.mark.parametrize(
    ("shape", "density", "message"),
    [
        ({"hidden": 3}, 1.0, "the shape names 'hidden', the space has ffn, head"),
        ({"head": 5}, 1.0, "keeps 5 of 'head': expected a whole number from 1 to 4"),
        ({"ffn": 0}, 1.0, "keeps 0 of 'ffn'"),
        ({"ffn": 2.5}, 1.0, "keeps 2.5 of 'ffn'"),
        ({"head": 4, "ffn": 40}, 0.5, r"keeps a density of 0\.\d+: ask for this much or more, not 0.5"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape, density, message):
    with pytest.raises(UserError, match=message):
        Cofi(Space(tiny("bert"), "ffn", "head"), density, shape=shape)


def test_a_shape_of_layers_that_differ_is_refused():
    with pytest.raises(UserError, match="the shape names 'ffn', whose groups have 40 and 48 units"):
        Cofi(Space(tiny("marian"), "ffn", "head"), shape={"ffn": 20})
