"""The golden test of head importance, T14 of differentiable subset pruning's specification."""

import pytest
import torch
from quiet import arguments
from tiny_models import tiny

from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.methods.michel import Michel, normalised
from secateur.methods.schedules import linear
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.training.objectives import Labels
from secateur.training.trainer import PruningTrainer


@pytest.fixture(scope="module")
def heads():
    """24 heads in 6 layers, counted."""
    return Space(tiny("bert", num_hidden_layers=6), "head", budget=Units())


def test_t14_importance_is_that_of_finite_differences(bert, rows, tmp_path):
    """Two batches through the trainer, model frozen: the sum of |dL/dm| of each, at masks of 1."""
    model = bert().double().requires_grad_(False)
    space = Space(model, "head")
    method, seen = Michel(space, linear(1.0, 0.9, begin=1.0)).double(), []

    def collate(part):
        seen.append({name: torch.stack([torch.as_tensor(row[name]) for row in part]) for name in part[0]})
        return seen[-1]

    PruningTrainer(
        model,
        method=method,
        objective=[Labels()],
        args=arguments(tmp_path, 2),
        train_dataset=rows[:8],
        data_collator=collate,
    ).train()

    def loss(batch, masks):
        with attached(model, space, masks), torch.no_grad():
            return float(model(**batch).loss)

    found = torch.zeros(len(space), dtype=torch.float64)
    assert len(seen) == 2
    for unit in range(len(space)):
        step = torch.zeros(len(space), dtype=torch.float64).index_fill(0, torch.tensor([unit]), 1e-4)
        for batch in seen:
            ahead, behind = (loss(batch, 1.0 + way * step) for way in (1, -1))
            found[unit] += abs(ahead - behind) / 2e-4
    torch.testing.assert_close(method.importance, found, rtol=1e-5, atol=1e-9)


def test_t14_the_normalised_importance_of_a_layer_has_norm_one(heads):
    importance = torch.rand(24, generator=torch.Generator().manual_seed(0))
    norms = normalised(heads, importance).view(6, 4).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(6))
    assert torch.equal(normalised(heads, torch.zeros(24)), torch.zeros(24))


def test_kinds_with_one_unit_in_each_layer_are_normalised_over_all_layers():
    space = Space(tiny("bert"), "sublayer", "head")
    importance = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    found = normalised(space, importance)
    alone = torch.tensor([group.size == 1 for group in space.groups for _ in range(group.size)])
    torch.testing.assert_close(found[alone], importance[alone] / importance[alone].norm())


def removed(space, stop, *, steps=100, observe=None, **options):
    """The counts of units that are left, each once, over a run with evidence; and the method."""
    method = Michel(space, linear(1.0, stop, begin=0.1, end=0.9), **options)
    evidence, counts = torch.rand(len(space), generator=torch.Generator().manual_seed(1)), [len(space)]
    for step in range(steps):
        if method.listens_to:
            (observe or method.observe)(evidence)
        method.advance((step + 1) / steps)
        counts.append(int(method.alive.sum()))
    return list(dict.fromkeys(counts)), method, evidence


@pytest.mark.parametrize("budget", [Parameters(), Units()], ids=["density", "count"])
@pytest.mark.parametrize(("step", "last"), [(4, 4), (5, 3), (1, 20), (24, 1)])
def test_t14_counts_are_exact(step, last, budget):
    space = Space(tiny("bert", num_hidden_layers=6), "head", budget=budget)
    stop = space.floor() + (1 - space.floor()) * last / 24
    counts, method, _ = removed(space, stop, step=step)
    assert counts == [*range(24, last, -step), last]
    assert method.reached_target() and not method.listens_to
    assert int(method.plan(keep=last).kept.sum()) == last


def test_several_removals_in_one_step_keep_the_same_number(heads):
    counts, _, _ = removed(heads, 2 / 24, step=4, steps=3)
    assert counts[-1] == 2 and set(counts) <= {24, 20, 16, 12, 8, 4, 2}


def test_importance_is_estimated_again_after_each_removal(heads):
    _, exact, evidence = removed(heads, 12 / 24, step=4)
    assert not bool(exact.importance.any())
    _, once, _ = removed(heads, 12 / 24, step=4, exact=False)
    torch.testing.assert_close(once.importance, 11 * evidence)  # observed until the first removal, and kept
    per_layer = normalised(heads, evidence)
    assert set(once.alive.nonzero().flatten().tolist()) == set(per_layer.topk(12).indices.tolist())


def test_the_published_variants_differ(heads):
    gradient = torch.tensor([1.0, -1.0] * 12)
    plain, signed = (Michel(heads, 0.5, signed=signed) for signed in (False, True))
    for method in (plain, signed):
        method.observe(gradient)
        method.observe(-gradient)
    assert plain.importance.tolist() == [2.0] * 24 and signed.importance.tolist() == [0.0] * 24
    ours, faithful, raw = (Michel(heads, 0.5, **o) for o in ({}, {"faithful": True}, {"normalise": False}))
    for method in (ours, faithful, raw):
        method.observe(gradient)
        method.alive[0] = False
    torch.testing.assert_close(ours.scores()[1:4], torch.full((3,), 3**-0.5))
    torch.testing.assert_close(faithful.scores()[1:4], torch.full((3,), 0.5))
    assert raw.scores()[1:].tolist() == [1.0] * 23


@pytest.mark.parametrize("step", [0, 25, 1.5, True])
def test_a_step_that_is_not_a_number_of_units_is_refused(heads, step):
    with pytest.raises(UserError, match=f"step is {step}: expected a whole number of units from 1 to 24"):
        Michel(heads, 0.5, step=step)
