"""L0 gates: T13 of the specification of differentiable subset pruning, and the controller of the strength."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.methods.schedules import linear
from secateur.methods.voita import GATE, Voita
from secateur.system.errors import UserError

LOG_ALPHA = torch.tensor([-3.0, -1.0, 0.0, 3.0])


@pytest.fixture(scope="module")
def heads():
    """24 heads in 6 layers, counted."""
    return Space(tiny("bert", num_hidden_layers=6), "head", budget=Units())


def test_t13_gates_and_penalty():
    torch.testing.assert_close(GATE.noiseless(LOG_ALPHA), torch.tensor([0.0, 0.22273, 0.5, 1.0]), atol=1e-5, rtol=0)
    assert float(GATE.open_probability(LOG_ALPHA).sum()) == pytest.approx(2.21303, abs=1e-5)
    assert float(GATE.open_probability(torch.zeros(()))) == pytest.approx(0.688, abs=1e-3)
    assert float(GATE.noiseless(torch.tensor(-2.398))) == pytest.approx(0.0, abs=1e-4)
    space = Space(tiny("bert", num_hidden_layers=1), "head", budget=Units())
    method = Voita(space, 0.5, strength=2.0, faithful=True)
    with torch.no_grad():
        method.log_alpha.copy_(LOG_ALPHA)
    assert float(method.penalty().detach()) == pytest.approx(2 * 2.21303, abs=1e-5)
    torch.testing.assert_close(method.eval().masks(), GATE.noiseless(LOG_ALPHA))


@pytest.mark.parametrize(("faithful", "middle"), [(True, 0.0), (False, 2.0)])
def test_the_gates_of_a_layer_start_within_xaviers_bound_of_its_own(faithful, middle):
    """One tensor (1, H, 1, 1) for each layer, whatever the number of layers: 0.68 for 12 heads, 1.1 for 4."""
    for heads, bound in ((12, 0.6794), (4, 1.0954)):
        model = tiny("bert", num_hidden_layers=12, hidden_size=24, num_attention_heads=heads)
        values = [
            Voita(Space(model, "head", budget=Units()), 0.5, faithful=faithful, seed=seed).log_alpha.detach() - middle
            for seed in range(10)
        ]
        largest = float(torch.stack(values).abs().max())
        assert 0.98 * bound < largest <= bound + 1e-4
    rows = torch.nn.init.xavier_uniform_(torch.empty(1, 12, 1, 1), generator=torch.Generator().manual_seed(0))
    assert float(rows.abs().max()) <= 0.6794


def test_the_bound_is_that_of_each_group():
    """Heads and neurons: each group has the bound of its own number of units."""
    space = Space(tiny("bert", num_hidden_layers=6), "head", "ffn")
    start = Voita(space, 0.9, faithful=True, seed=0).log_alpha.detach()
    largest = {kind: 0.0 for kind in ("head", "ffn")}
    for group, own in space.by_group(start):
        bound = (6 / (group.size + 1)) ** 0.5
        largest[group.kind] = max(largest[group.kind], float(own.abs().max()) / bound)
    assert all(0.8 < part <= 1.0 for part in largest.values())


@pytest.mark.parametrize(
    ("options", "constant"),
    [({}, True), ({"faithful": True}, False), ({"faithful": True, "decay": False}, True), ({"decay": True}, False)],
)
def test_the_learning_rate_follows_the_schedule_of_the_run_as_published_if_faithful(heads, options, constant):
    (group,) = Voita(heads, 0.5, **options).param_groups()
    assert group.get("constant", False) is constant


def test_t13_the_frequency_of_open_samples_is_the_penalty():
    noise = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    shares = (GATE.sample(LOG_ALPHA, noise) > 0).double().mean(dim=0)
    torch.testing.assert_close(shares, GATE.open_probability(LOG_ALPHA).double(), atol=0.012, rtol=0)
    ends = GATE.sample(LOG_ALPHA, torch.tensor([[0.0], [1.0]]))
    assert bool(ends.isfinite().all()) and ends.tolist() == [[0.0] * 4, [1.0] * 4]


def taught(space, count, scale, *, steps=600, **options):
    """A method after a training on `-sum(utility x gates)` plus its penalty."""
    method = Voita(space, linear(1.0, count / len(space), begin=0.05, end=0.7), seed=0, **options)
    utility = scale * torch.rand(len(space), generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.Adam(method.param_groups())
    for step in range(steps):
        loss = -(utility * method.train().masks()).sum() + method.penalty()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        method.advance((step + 1) / steps)
    return method.eval()


@pytest.mark.parametrize("scale", [1e-3, 1.0])
@pytest.mark.parametrize("count", [3, 12, 18])
def test_the_controller_reaches_k_open_gates_at_any_scale_of_the_loss(heads, count, scale):
    """Within one of 24; the plan is exact, and both numbers are logged."""
    method = taught(heads, count, scale)
    values = method.log_values()
    assert abs(values["open"] - count) <= 1 and values["kept"] == count
    assert int(method.plan(keep=count).kept.sum()) == int(method.masks().sum()) == count


def test_a_fixed_strength_does_not_reach_k(heads):
    """With the published rule the number is far from K, and the ranking decides."""
    method = taught(heads, 6, 1.0, strength=1e-6, faithful=True)
    assert method.log_values()["open"] > 20 and method.strength == 1e-6
    assert int(method.plan(keep=6).kept.sum()) == 6


def test_the_controller_continues_after_a_restart(heads):
    first = taught(heads, 6, 1.0, steps=50)
    again = Voita(heads, linear(1.0, 6 / 24, begin=0.05, end=0.7), seed=1)
    again.load_state_dict(first.state_dict())
    assert (again.strength, again.integrated_strength, again.draws, again.seed) == (
        first.strength,
        first.integrated_strength,
        first.draws,
        0,
    )
    assert again.integrated_strength != again.strength
    assert torch.equal(again.train().masks(), first.train().masks())


@pytest.mark.parametrize("option", ["learning_rate", "strength", "rate"])
def test_options_out_of_range_are_refused(heads, option):
    with pytest.raises(UserError, match=f"{option} is 0.0: expected a number above 0"):
        Voita(heads, 0.5, **{option: 0.0})
