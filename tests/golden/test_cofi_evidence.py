"""CoFi's prior by evidence: its formula by hand, what one price then means, and what it does along a run."""

import logging
import math

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.cofi import BOUNDS, GATE, Cofi
from secateur.methods.prior import LEAST, EvidencePrior
from secateur.methods.schedules import linear
from secateur.system.errors import UserError

FAMILIES = ("hidden", "head", "sublayer", "ffn")
SCHEDULE = linear(1.0, 0.3, begin=0.2, end=0.6)


def gradients(space, steps=4):
    """`(steps, N)` gradients whose sizes differ by orders of magnitude between units."""
    generator = torch.Generator().manual_seed(3)
    sizes = 10.0 ** (-3.0 * torch.rand(len(space), generator=generator))
    return sizes * torch.randn(steps, len(space), generator=generator)


def observed(space, density=SCHEDULE, **options):
    """A method in double precision that has observed four steps, and has not begun to prune."""
    method = Cofi(space, density, seed=0, **options).double()
    for gradient in gradients(space).double():
        method.observe(gradient)
    method.advance(0.1)
    return method


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_odds_are_what_a_unit_is_worth_over_what_it_costs(bert, weight):
    """With costs counted by hand: `d (4 H + 3)` for a head, 2 H + 1 for a neuron, for a sublayer those of its units."""
    space = Space(bert(), *FAMILIES)
    method = observed(space, evidence=weight)
    before = method.log_alpha.detach().clone()
    method.advance(0.2)
    width, size, heads = space.table.head_dim, space.table.sizes["hidden"], space.table.heads
    head, neuron = width * (4 * size + 3), 2 * size + 1
    costs = {"head": head, "attention": heads * head, "ffn": neuron, "mlp": space.table.sizes["0.ffn"] * neuron}
    change = method.log_alpha.detach() - before
    shifts = []
    for group in space.groups:
        if group.kind != "hidden":
            own = space.slices[group.name]
            worth = gradients(space).double()[:, own].square().sum(0)
            shifts.append(change[own] - weight * (worth / costs[group.name.split(".")[-1]]).log())
    torch.testing.assert_close(
        torch.cat(shifts), torch.cat(shifts)[:1].expand(len(torch.cat(shifts))), atol=1e-5, rtol=0
    )


def test_dims_of_the_stream_rise_as_they_become_cheap(bert):
    """By `w (2 log s - log d)`, for s of the stream open and the density d."""
    space = Space(bert(), *FAMILIES)
    prior = EvidencePrior(space, 2.0)
    prior.observe(gradients(space)[0])
    prior.change(torch.ones(len(space)))
    stream, others = space.slices["hidden"], torch.ones(len(space), dtype=torch.bool)
    others[stream] = False
    chances = torch.full((len(space),), 0.5)
    chances[stream] = 0.75
    change = prior.change(chances)
    expected = 2.0 * (2.0 * math.log(0.75) - math.log(space.density(chances)))
    torch.testing.assert_close(change[stream], torch.full_like(change[stream], expected), atol=1e-5, rtol=0)
    assert expected > 0 and bool((change[others] == 0).all())
    assert bool((prior.change(chances).abs() < 1e-6).all()), "the same state changes nothing again"


def test_evidence_is_observed_before_pruning_begins_and_no_longer(bert):
    method = Cofi(Space(bert(), *FAMILIES), SCHEDULE)
    assert method.listens_to == {"labels": 1.0, "logits": 1.0}
    method.advance(0.2)
    assert method.listens_to == {}
    for options in ({"evidence": 0.0}, {"constraint": "lagrangian"}, {"faithful": True}):
        assert Cofi(method.space, SCHEDULE, **options).listens_to == {}


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_the_density_is_the_schedules_along_a_whole_ramp(kind):
    """Gates with evidence are not clamped, so that any density is in reach."""
    space = Space(tiny(kind), *FAMILIES)
    method = observed(space, linear(1.0, 0.05, begin=0.2, end=0.7))
    for step in range(8, 41):
        noise = torch.Generator().manual_seed(step)
        with torch.no_grad():
            method.log_alpha += 0.3 * torch.randn(len(space), generator=noise, dtype=torch.double)
        method.advance(step / 40)
        target = method.share_schedule(method.progress)
        assert target - 1e-6 < method.expected().item() <= target
    assert method.log_alpha.min() < BOUNDS[0] and method.log_alpha.max() > BOUNDS[1]
    plan = method.eval().plan(density=0.05)
    assert 0.04 < space.density(plan.kept) <= 0.05


def test_gates_that_are_fully_open_keep_their_order(bert):
    """At the start of a ramp all are read as fully open, and those of the least worth are the first to close."""
    space = Space(bert(), "ffn", "head")
    method = observed(space, linear(1.0, 0.5, begin=0.2, end=0.6))
    method.advance(0.2)
    assert bool((GATE.open_probability(method.gates()) > 0.9999).all())
    worth = gradients(space).square().sum(0) / space.unit_cost()
    ranked = 2.0 * worth.log()[method.scores().argsort()]
    assert (ranked[:-1] - ranked[1:]).max() < 0.08, "but for the noise of the start"
    method.advance(0.25)
    closed = GATE.open_probability(method.gates()) < 0.5
    assert 0 < int(closed.sum()) < len(space) and worth[closed].max() < worth[~closed].min()


def test_a_unit_without_a_gradient_is_the_least_and_no_evidence_is_none(bert):
    space = Space(bert(), "ffn")
    prior = EvidencePrior(space, 1.0)
    assert bool((prior.change(torch.ones(len(space))) == 0).all())
    gradient = torch.ones(len(space))
    gradient[5] = 0.0
    prior.observe(gradient)
    change = prior.change(torch.ones(len(space)))
    assert change.argmin() == 5 and change.isfinite().all()
    assert (change.max() - change[5]).item() == pytest.approx(-math.log(LEAST), rel=1e-5)


@pytest.mark.parametrize("begin", [0.0, 0.1])
def test_without_a_step_before_pruning_begins_gates_are_those_without_evidence(bert, caplog, begin):
    """They are clamped, too, and the log says once that there is no evidence."""
    space, density = Space(bert(), *FAMILIES), linear(1.0, 0.3, begin=begin, end=0.5)
    methods = [Cofi(space, density, seed=0, evidence=weight).double() for weight in (2.0, 0.0)]
    with caplog.at_level(logging.WARNING, logger="secateur"):
        for step in range(1, 6):
            for method in methods:
                generator = torch.Generator().manual_seed(step)
                with torch.no_grad():
                    method.log_alpha += torch.randn(len(space), generator=generator, dtype=torch.double)
                method.advance(step / 5)
            assert torch.equal(methods[0].log_alpha, methods[1].log_alpha)
            assert BOUNDS[0] <= methods[0].log_alpha.min() and methods[0].log_alpha.max() <= BOUNDS[1]
    (record,) = caplog.records
    assert f"begins, at {begin:g} of the run, so that gates are trained as with evidence=0" in record.getMessage()


def test_gates_with_evidence_are_free_before_it_is_known_and_after(bert):
    """Their start is not clamped, so that its noise decides between gates of equal worth."""
    method = Cofi(Space(bert(), *FAMILIES), SCHEDULE, seed=0)
    before = method.log_alpha.detach().clone()
    method.advance(0.1)
    assert torch.equal(method.log_alpha, before) and before.min() > BOUNDS[1]


def test_a_gradient_that_is_not_finite_is_no_evidence(bert):
    space = Space(bert(), "ffn")
    prior = EvidencePrior(space, 1.0)
    prior.observe(torch.full((len(space),), float("nan")))
    prior.observe(torch.ones(len(space)) * float("inf"))
    assert bool((prior.information == 0).all())


def test_a_state_goes_on_with_its_evidence(bert):
    """A method that is loaded in the middle of the ramp moves as the one that was saved."""
    space = Space(bert(), *FAMILIES)
    first, second = observed(space), Cofi(space, SCHEDULE, seed=5).double()
    first.advance(0.3)
    second.load_state_dict(first.state_dict())
    for method in (first, second):
        method.advance(0.4)
    torch.testing.assert_close(second.log_alpha, first.log_alpha, atol=0, rtol=0)


def test_a_gate_that_was_removed_does_not_count_as_reopened(bert):
    """Whatever its log alpha, which shifts with that of the others where gates are not clamped."""
    space = Space(bert(), *FAMILIES)
    method = observed(space, linear(1.0, 0.3, begin=0.2, end=0.4), settle=2)
    for step in range(5, 13):
        method.advance(step / 20)
    gone = ~method.alive
    assert bool(gone.any()) and method.log_values()["reopened"] == 0
    for step in range(13, 17):
        with torch.no_grad():
            method.log_alpha[gone] = 10.0
        method.advance(step / 20)
    assert method.log_values()["reopened"] == 0 and not bool(method.alive[gone].any())
    assert method.expected().item() == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("evidence", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(bert, evidence):
    with pytest.raises(UserError, match=r"evidence is .*: expected a number from 0 on"):
        Cofi(Space(bert(), "ffn"), 0.9, evidence=evidence)


@pytest.mark.parametrize("options", [{"constraint": "lagrangian"}, {"faithful": True}, {"shape": {"ffn": 16}}])
def test_evidence_needs_an_exact_constraint(bert, options):
    with pytest.raises(UserError, match="with an exact constraint"):
        Cofi(Space(bert(), "ffn"), 0.9, evidence=1.0, **options)


@pytest.mark.parametrize(("saved", "own"), [(0.0, 2.0), (2.0, 0.0)])
def test_a_state_of_gates_with_other_evidence_is_refused(bert, saved, own):
    space = Space(bert(), "head")
    state = torch.nn.ModuleDict({"method": Cofi(space, 0.9, evidence=saved)}).state_dict()
    with pytest.raises(UserError, match="whose option evidence is as it was"):
        torch.nn.ModuleDict({"method": Cofi(space, 0.9, evidence=own)}).load_state_dict(state)
