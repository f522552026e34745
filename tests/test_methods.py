"""The registry, the two baselines, and a method that a user writes."""

import pytest
import torch
from tiny_models import METHODS, taught, tiny

from secateur.errors import UserError
from secateur.methods import method as contract
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.method import Method, named, register, registered
from secateur.methods.random import Random
from secateur.schedules import linear
from secateur.space import GRANULARITIES, Space


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"))


# The registry


def test_every_method_is_known_by_its_name():
    assert {"cofi": Cofi, "grain": Grain, "magnitude": Magnitude, "random": Random}.items() <= registered().items()
    assert all(named(name) is method and method.name == name for name, method in registered().items())


def test_an_unknown_name_gets_the_nearest_or_all():
    with pytest.raises(UserError, match=r"'magnitud' is not known: did you mean 'magnitude'\?$"):
        named("magnitud")
    with pytest.raises(UserError, match=rf"'xyz' is not known: known are {', '.join(METHODS)}$"):
        named("xyz")


def test_a_users_own_method_works_once_registered(space, monkeypatch):
    monkeypatch.setattr(contract, "_REGISTRY", registered())  # a copy: the laws go on without it

    @register("last-first")
    class LastFirst(Method):
        def scores(self):
            return torch.arange(len(self.space), dtype=torch.float)

    assert named("last-first") is LastFirst
    plan = named("last-first")(space).plan(0.3)
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


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_magnitude_is_the_root_mean_square_of_a_units_weights(known, granularity):
    expected = torch.tensor(MEAN_SQUARES[granularity]).float().sqrt()
    torch.testing.assert_close(Magnitude(Space(known, granularity)).scores(), expected)


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
        if group.units > space.table.heads:
            parts = space.table.heads if group.granularity in ("qk", "vo") else 1
            assert not bool((plan.kept[space.slices[group.name]].view(parts, -1).sum(dim=1) % 8).any())


def test_what_sets_sizes_itself_refuses_multiples():
    space = Space(tiny("bert"), "ffn", "head", round_to=8)
    with pytest.raises(UserError, match="a shape says every size itself"):
        Cofi(space, 1.0, shape={"ffn": 16})
    with pytest.raises(UserError, match="leave faithful out"):
        Grain(space, faithful=True)


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
    assert float(method.gap().detach().abs().max()) < 0.03
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
