"""Law 6: units that a monotone method has pruned stay pruned, over a whole schedule and into the plan."""

import pytest
import torch
from tiny_models import LEADING, MONOTONE, UNIT_SETS, for_every_method, learn, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.schedules import cubic

STEPS = 12


@pytest.mark.parametrize(("which", "units", "name"), for_every_method(LEADING, UNIT_SETS, MONOTONE))
def test_pruned_stays_pruned(which, units, name):
    model = tiny(*which)
    space = Space(model, *units)
    schedule = cubic(1.0, 0.4, begin=0.2, end=0.8)
    method = METHODS.get(name)(space, schedule)
    generator = torch.Generator().manual_seed(0)
    alive = space.ones().bool()
    for step in range(1, STEPS + 1):
        shake(model, generator)  # training goes on: methods that read the weights change their mind
        learn(method, step / STEPS, generator)
        now = method.masks() > 0
        assert not bool((now & ~alive).any()), f"a unit came back at step {step}"
        assert space.density(now) <= schedule(step / STEPS) + 1e-12
        alive = now
    shake(model, generator)
    for density in (0.4, 0.3):
        assert not bool((method.plan(density).kept & ~alive).any())


@pytest.mark.parametrize("units", UNIT_SETS, ids="-".join)
def test_a_removed_unit_never_takes_the_place_of_one_without_a_score(units):
    space = Space(tiny("bert"), *units)
    alive = space.choose(torch.rand(len(space), generator=torch.Generator().manual_seed(0)), 0.6)
    kept = space.choose(torch.full((len(space),), torch.nan), 0.6, alive=alive)
    assert torch.equal(kept, alive)


@torch.no_grad()
def shake(model, generator):
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
