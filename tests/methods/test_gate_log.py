"""What the log says of gates: averages over the alive gates of each kind, and over the steps since the last log."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.gate_log import GateLog


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"), "head", "sublayer")


def of_kinds(space, head, sublayer):
    """`(N,)`: a value for all units of a kind."""
    heads = sum(group.size for group in space.groups if group.kind == "head")
    return torch.tensor([head] * heads + [sublayer] * (len(space) - heads))


def test_values_are_averages_over_alive_gates_and_over_steps(space):
    log, everything = GateLog(space), torch.ones(len(space), dtype=torch.bool)
    alive = everything.clone()
    alive[:2] = False
    log.observe(None, everything)
    log.observe(of_kinds(space, -1.0, 4.0), everything)
    log.observe(of_kinds(space, 2.0, -8.0) * alive, alive)
    values = log.take(of_kinds(space, 0.5, 0.25), alive)
    heads = sum(group.size for group in space.groups if group.kind == "head")
    assert values == pytest.approx(
        {
            "open_head": 0.5 * (heads - 2) / heads,
            "open_sublayer": 0.25,
            "gradient_head": (1.0 + 2.0) / 2,
            "gradient_sublayer": (4.0 + 8.0) / 2,
        }
    )
    assert set(log.take(of_kinds(space, 0.5, 0.25), alive)) == {"open_head", "open_sublayer"}, "no step since"


@pytest.mark.parametrize("constraint", ["exact", "lagrangian"])
def test_the_log_of_a_method_has_the_gradients_of_its_steps(space, constraint):
    """From the beginning of pruning on, and those alone that the optimizer applied."""
    method = Cofi(space, 0.9, constraint=constraint, seed=0)
    method.share_schedule = Cofi.schedule(0.9, begin=0.5, end=0.6)
    method.advance(0.4)
    assert not {key for key in method.log_values() if key.startswith(("open", "gradient"))}
    method.log_alpha.grad = of_kinds(space, -3.0, 0.5)
    method.advance(0.7)
    values = method.log_values()
    assert values["gradient_head"] == 3.0 and values["gradient_sublayer"] == 0.5
    assert 0.5 < values["open_head"] < 1.0


def test_the_log_of_a_lagrangian_tells_its_penalty_from_the_loss(space):
    """The gradient of `l1 gap + l2 gap^2` by log alpha is `(l1 + 2 l2 gap)` times that of the gap."""
    method = Cofi(space, 0.5, constraint="lagrangian", seed=0)
    method.share_schedule = Cofi.schedule(0.5, begin=0.1, end=0.2)
    method.advance(0.5)
    with torch.no_grad():
        method.log_alpha.copy_(of_kinds(space, 0.5, 1.0))
        method.multipliers.copy_(torch.tensor([[0.3], [2.0]]))
    values = method.log_values()
    (gap,) = method.gaps()
    (slope,) = torch.autograd.grad(gap.sum(), method.log_alpha)
    found = ((0.3 + 4.0 * gap.item()) * slope).abs()
    heads = sum(group.size for group in space.groups if group.kind == "head")
    assert values["penalty_head"] == pytest.approx(found[:heads].mean().item())
    assert values["penalty_sublayer"] == pytest.approx(found[heads:].mean().item())
    assert "gradient_head" not in values, "no step was taken"
    assert not any(key.startswith("penalty_") for key in Cofi(space, 0.5, seed=0).log_values())
