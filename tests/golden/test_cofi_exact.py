"""CoFi's constraint held exactly: the projection against a bisection by hand, and what follows from it."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.cofi import BOUNDS, CERTAIN, GATE, Cofi
from secateur.methods.projection import root
from secateur.methods.schedules import linear
from secateur.system.errors import UserError

FAMILIES = ("hidden", "head", "sublayer", "ffn")
LOWEST, HIGHEST = BOUNDS


def noise(method, seed, scale=1.0):
    """`(N,)`, normal."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(len(method.space), generator=generator, dtype=method.log_alpha.dtype)


def move(method, by, progress):
    """An optimizer step that moves the gates by `(N,)`, and what follows it."""
    with torch.no_grad():
        method.log_alpha += by
    method.advance(progress)


def held(space, density=0.4, **options):
    """A method whose gates are spread around 0 and hold a density."""
    method = Cofi(space, density, seed=0, constraint="exact", evidence=0.0, **options).double()
    with torch.no_grad():
        method.log_alpha.copy_(noise(method, 1, 1.5))
    method.advance(0.5)
    return method


def density_by_hand(space, gates):
    """The expected density of a tiny BERT: `sum p_attention p_head (4 H + 3) d + p_mlp p_neuron (2 H + 1)` over all."""
    chances = {name: torch.sigmoid(gates[own] + 2 / 3 * torch.tensor(11.0).log()) for name, own in space.slices.items()}
    dims, width, size = chances["hidden"].sum(), space.table.head_dim, space.table.sizes
    kept = full = 0.0
    for layer in space.table.layers:
        head, neuron = 4 * dims + 3, 2 * dims + 1
        kept += chances[f"{layer}.attention"] * chances[f"{layer}.head"].sum() * width * head
        kept += chances[f"{layer}.mlp"] * chances[f"{layer}.ffn"].sum() * neuron
        full += space.table.heads * width * (4 * size["hidden"] + 3)
        full += size[f"{layer}.ffn"] * (2 * size["hidden"] + 1)
    return float(kept / full)


@pytest.mark.parametrize("density", [0.05, 0.4, 0.9])
def test_the_projection_is_that_of_a_bisection_by_hand(bert, density):
    """All gates are shifted by the one number at which the product formula, written out, is the density."""
    method = Cofi(Space(bert(), *FAMILIES), density, seed=0, constraint="exact", evidence=0.0).double()
    moved = noise(method, 2, 2.0)
    with torch.no_grad():
        method.log_alpha.copy_(moved)
    expected = bisected(method.space, moved.clamp(*BOUNDS), density, BOUNDS).clamp(*BOUNDS)
    method.advance(0.5)
    torch.testing.assert_close(method.log_alpha.detach(), expected, atol=5e-6, rtol=0)
    assert bool((method.log_alpha == LOWEST).any() or (method.log_alpha == HIGHEST).any()), "some are at a bound"


def costs_by_hand(space):
    """`(N,)` parameters of the units of a tiny BERT, each in the whole model."""
    hidden, head, layers = space.table.sizes["hidden"], space.table.head_dim, len(space.table.layers)
    neurons = space.table.sizes["0.ffn"]
    by_kind = {
        "head": head * (4 * hidden + 3),
        "ffn": 2 * hidden + 1,
        "attention": space.table.heads * head * (4 * hidden + 3),
        "mlp": neurons * (2 * hidden + 1),
        "hidden": layers * (4 * space.table.heads * head + 2 * neurons),
    }
    costs = torch.zeros(len(space), dtype=torch.double)
    for name, own in space.slices.items():
        costs[own] = by_kind[name.split(".")[-1]]
    return costs


def odds_by_hand(space, gradients, gates):
    """`2 (log I - log c)`, where a dim of the stream costs `d / s^2` of what it cost in the whole model."""
    information = sum(gradient**2 for gradient in gradients)
    least = 1e-4 * information[information > 0].median()
    odds = information.clamp(min=least).log() - costs_by_hand(space).log()
    own = space.slices["hidden"]
    left = torch.sigmoid(gates[own] + 2 / 3 * torch.tensor(11.0).log()).mean()
    odds[own] += 2 * left.log() - torch.tensor(density_by_hand(space, gates)).log()
    return 2.0 * odds


def bisected(space, gates, density, bounds):
    """The gates, all moved by the one number at which those within the bounds have the density."""
    low, high = -200.0, 200.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if density_by_hand(space, (gates + middle).clamp(*bounds)) > density else (middle, high)
        )
    return gates + low


@pytest.mark.parametrize("density", [0.05, 0.4, 0.9])
def test_with_evidence_the_gates_are_those_of_the_prior_and_of_a_bisection_by_hand(bert, density):
    """The defaults: the prior moves the gates before the shift, which leaves them beyond the bounds of what is read."""
    method = Cofi(Space(bert(), *FAMILIES), linear(1.0, density, begin=0.2, end=0.4), seed=0).double()
    space, gradients = method.space, [noise(method, seed, 3.0).exp() * noise(method, seed + 9) for seed in (3, 4)]
    method.advance(0.1)
    for gradient in gradients:
        gradient[space.slices["0.ffn"].start] = 0.0  # no gradient at all counts as the least
        method.observe(gradient)
    assert not method.begun and bool((method.masks() == 1).all())
    expected, odds = method.log_alpha.detach().clone(), torch.zeros(len(space), dtype=torch.double)
    for step, progress in enumerate((0.5, 0.75, 1.0)):
        by = noise(method, step, 2.0)
        move(method, by, progress)
        expected = expected + by
        now = odds_by_hand(space, gradients, expected)
        expected, odds = bisected(space, expected + now - odds, density, CERTAIN), now
        torch.testing.assert_close(method.log_alpha.detach(), expected, atol=2e-5, rtol=0)
        assert density_by_hand(space, expected.clamp(*CERTAIN)) == pytest.approx(density, abs=1e-6)
    beyond = (expected < CERTAIN[0]) | (expected > CERTAIN[1])
    assert bool(beyond.any()) and not bool(beyond.all()), "they are clamped where they are read, and not in place"


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_the_expected_density_is_the_schedules_at_every_step_of_a_ramp(kind, dtype):
    """Whatever the steps of the optimizer are, and never above it."""
    space = Space(tiny(kind), *FAMILIES)
    method = Cofi(
        space, linear(1.0, 0.05, begin=0.1, end=0.6), learning_rate=0.1, seed=0, constraint="exact", evidence=0.0
    ).to(dtype)
    reached = []
    for step in range(1, 41):
        move(method, noise(method, step, 0.5), step / 40)
        target = method.share_schedule(method.progress)
        if method.progress > 0.1 and target < 0.99:
            assert target - 1e-6 < method.expected().item() <= target
        assert method.log_alpha.min() >= LOWEST and method.log_alpha.max() <= HIGHEST
        reached.append(method.reached)
    assert reached.index(True) == 23, "with the end of the ramp"
    assert method.eval().reached_target()


def test_gates_compete(bert):
    """The gates of one network rise; all others sink by one number, and the density stays."""
    method = held(Space(bert(), *FAMILIES))
    before = method.log_alpha.detach().clone()
    winners = torch.zeros(len(method.space), dtype=torch.bool)
    winners[method.space.slices["0.ffn"]] = True
    move(method, 1.0 * winners, 0.6)
    change = method.log_alpha.detach() - before
    free = (before > LOWEST + 0.5) & (before < HIGHEST - 1.5)
    losses = change[free & ~winners]
    assert len(losses) > 20 and losses.max() < -0.05
    torch.testing.assert_close(losses, losses[:1].expand_as(losses))
    torch.testing.assert_close(change[free & winners], (1.0 + losses[:1]).expand(int((free & winners).sum())))
    assert method.expected().item() == pytest.approx(0.4, abs=1e-6)


def test_a_step_that_opens_all_gates_changes_nothing(bert):
    method = held(Space(bert(), *FAMILIES))
    before = method.log_alpha.detach().clone()
    inside = (before > LOWEST) & (before < HIGHEST - 0.3)
    move(method, 0.3, 0.6)
    torch.testing.assert_close(method.log_alpha.detach()[inside], before[inside], atol=1e-5, rtol=0)
    assert method.expected().item() == pytest.approx(0.4, abs=1e-6)


def test_a_density_that_clamped_gates_cannot_have_is_approached(bert):
    """The attentions are not pruned: a closed neuron is still open with a probability of 0.047."""
    space = Space(bert(), "ffn")
    density = space.floor() + 0.01
    method = Cofi(space, linear(1.0, density, end=0.5), seed=0, constraint="exact", evidence=0.0).double()
    method.advance(0.0005)
    assert bool((method.log_alpha == HIGHEST).all()), "0.9993 is more than the 0.9987 of gates at their upper bound"
    move(method, noise(method, 0), 1.0)
    assert bool((method.log_alpha == LOWEST).all())
    least = float(GATE.open_probability(torch.tensor(LOWEST)))
    assert method.expected().item() == pytest.approx(space.floor() + least * (1 - space.floor()), abs=1e-6)
    assert method.reached and method.eval().reached_target(), "the counted density is met"


def test_removed_gates_leave_their_density_to_the_others(bert):
    """Gates that settle are removed after the ramp; the density is exact before and after, in float32."""
    space = Space(bert(), *FAMILIES)
    method = Cofi(space, linear(1.0, 0.1, end=0.5), settle=3, seed=0, constraint="exact", evidence=0.0)
    drift = torch.where(torch.rand(len(space), generator=torch.Generator().manual_seed(0)) < 0.4, -1.0, 1.0)
    for step in range(1, 13):
        move(method, drift, step / 12)
        target = method.share_schedule(method.progress)
        assert target - 1e-6 < method.expected().item() <= target
    gone = ~method.alive
    assert 0.1 < gone.double().mean() < 0.9
    assert bool((method.log_alpha[gone] == LOWEST).all()) and bool((method.eval().masks()[gone] == 0).all())


def test_an_exact_constraint_has_no_multipliers_and_no_penalty(bert):
    method = held(Space(bert(), *FAMILIES))
    assert method.multipliers is None and method.penalty() == 0.0
    assert [name for name, _ in method.named_parameters()] == ["log_alpha"]
    (group,) = method.param_groups()
    assert group["params"][0] is method.log_alpha and "maximize" not in group


def test_the_options_that_need_a_lagrangian_have_one(bert):
    space = Space(bert(), "head", "ffn")
    assert Cofi(space, 0.9).multipliers is None
    for options in ({"faithful": True}, {"shape": {"ffn": 12}}):
        assert Cofi(space, 0.9, **options).multipliers is not None
    for options in ({"faithful": True}, {"shape": {"ffn": 12}}):
        with pytest.raises(UserError, match="exact without faithful and without a shape"):
            Cofi(space, 0.9, constraint="exact", **options)
    with pytest.raises(UserError, match="constraint is 'projected': expected exact or lagrangian"):
        Cofi(space, 0.9, constraint="projected")


@pytest.mark.parametrize(("saved", "own"), [("exact", "lagrangian"), ("lagrangian", "exact")])
def test_a_state_of_the_other_constraint_is_refused(bert, saved, own):
    """A state with multipliers is also that of a run of version 0.1.0."""
    space = Space(bert(), "head")
    state = torch.nn.ModuleDict({"method": Cofi(space, 0.9, constraint=saved)}).state_dict()
    torch.nn.ModuleDict({"method": Cofi(space, 0.9, constraint=saved)}).load_state_dict(state)
    with pytest.raises(UserError, match=f"trained with constraint={saved}.*into a method with constraint={saved}"):
        torch.nn.ModuleDict({"method": Cofi(space, 0.9, constraint=own)}).load_state_dict(state)


@pytest.mark.parametrize("first", [1e-3, 0.5, 20.0])
@pytest.mark.parametrize(
    ("function", "zero"),
    [
        (lambda x: x - 1.7, 1.7),
        (lambda x: (x + 2.3) ** 3, -2.3),
        (lambda x: torch.sigmoid(torch.tensor(40 * (x - 3.0), dtype=torch.double)).item() - 0.999, 3.0 + 0.172669),
        (lambda x: -1.0 if x < 0.4 else 1.0, 0.4),
        (lambda x: 1.0, -5.0),
        (lambda x: -1.0, 5.0),
    ],
    ids=["line", "flat", "step", "jump", "above", "below"],
)
def test_the_root_is_found_from_any_first_step(function, zero, first):
    found = root(function, -5.0, 5.0, first)
    assert found == pytest.approx(zero, abs=5e-3) and -5.0 <= found <= 5.0
    assert abs(function(found)) <= 5e-8 or zero in (0.4, -5.0, 5.0)


@pytest.mark.parametrize(("lowest", "highest"), [(-5.0, 5.0), (float("nan"), float("nan"))])
def test_the_search_for_a_root_ends_where_there_are_no_numbers(lowest, highest):
    asked = []

    def function(x):
        asked.append(x)
        assert len(asked) < 100
        return float("nan")

    root(function, lowest, highest, 0.1)


def test_gates_of_a_training_that_has_diverged_are_not_searched_for_a_density(bert):
    """The trainer then names what was not finite."""
    method = held(Space(bert(), *FAMILIES), settle=1)
    by = torch.zeros_like(method.log_alpha)
    by[3] = float("nan")
    method.density_target.density_of = lambda log_alpha: pytest.fail("of no number")
    move(method, by, 1.0)
    assert bool(method.log_alpha.isnan().any()) and len(method.eval().masks()) == len(method.space)


@pytest.mark.parametrize("learning_rate", [0.0, -0.1, float("nan")])
@pytest.mark.parametrize("constraint", ["exact", "lagrangian"])
def test_gates_that_would_not_move_are_refused(bert, constraint, learning_rate):
    with pytest.raises(UserError, match=r"learning_rate is .*: expected a number above 0"):
        Cofi(Space(bert(), "head"), 0.9, constraint=constraint, learning_rate=learning_rate)
