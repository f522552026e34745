"""Laws 2, 3, 4, 5, 6 and 10 for methods that prune layers first and finer units after them.

Laws 8, 11 and 16 have their cases in rounds in `test_law_08_resume`, `test_law_11_shrink` and
`test_law_16_compensation`.
"""

import pytest
import torch
from law_assertions import assert_counted_equals_stored, assert_cut_equals_masked
from tiny_models import LEADING, inputs, learn, outputs, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.method import Method
from secateur.methods.rounds import CoarseRound
from secateur.methods.schedules import cubic
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut

UNITS = ("layer", "ffn", "qk", "vo")
IN_ROUNDS = tuple(name for name, kind in METHODS.all().items() if kind.in_rounds)
DENSITY = 0.15
# Every method with some models, and every model with one of the methods.
CASES = [
    pytest.param(
        *which.values, IN_ROUNDS[number % len(IN_ROUNDS)], id=f"{which.id}-{IN_ROUNDS[number % len(IN_ROUNDS)]}"
    )
    for number, which in enumerate(LEADING)
]


def pruned(which, name, seed=0, steps=12):
    """A model, and a method that has kept a layer of each stack at 0.3, and `DENSITY` of the model at 0.9.

    The method has also recorded that what it removed stayed removed.
    """
    model = tiny(*which)
    space = Space(model, *UNITS)
    stacks, layers = space.table.stacks, len(space.table.layers)
    first = CoarseRound("layer", keep=stacks, begin=0.0, end=0.3, recovered=0.5)
    method = METHODS.get(name)(space, cubic(stacks / layers, DENSITY, begin=0.5, end=0.9), rounds=[first])
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        before = method.alive.clone()
        learn(method, (step + 1) / steps, generator)
        assert not (method.alive & ~before).any()  # law 6
    return model, method


@pytest.mark.parametrize(("which", "name"), CASES)
def test_the_laws_hold_in_rounds(which, name, tmp_path):
    model, method = pruned(which, name)
    space, plan = method.space, method.plan(DENSITY)
    assert_cut_equals_masked(model, plan)  # law 2
    assert_counted_equals_stored(model, plan)  # law 3
    assert_density_within_a_small_unit(space, plan)  # law 5
    single = tiny(*which, dtype=torch.float32)
    small = cut(single, plan)
    save(small, tmp_path / "compact")
    assert_same_outputs(small, load(tmp_path / "compact"))  # law 4


def assert_density_within_a_small_unit(space, plan):
    achieved = plan.achieved["prunable"]
    assert 0 < achieved <= DENSITY
    largest_head = 2 * space.table.head_dim * float(space.unit_cost()[~space.large].max())
    assert DENSITY - achieved < largest_head / space.total()
    kept = plan.read(space).layers_left()
    assert int(kept.sum()) == space.table.stacks


def assert_same_outputs(ours, theirs):
    batch = inputs(ours)
    (mine, _), (other, _) = outputs(ours, batch), outputs(theirs, batch)
    assert set(mine) == set(other) and all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_the_same_seed_gives_the_same_plan_in_rounds(name):
    which = LEADING[0].values[0]
    first, second, other = (pruned(which, name, seed=seed)[1].plan(DENSITY).kept for seed in (0, 0, 1))
    assert torch.equal(first, second)  # law 10
    observes = METHODS.get(name).listens_to is not Method.listens_to  # the evidence, which differs with the seed
    assert not observes or not torch.equal(first, other)
