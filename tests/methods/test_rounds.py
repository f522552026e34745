"""Coarse rounds: layers go first, one after the other and by their own scores, and finer units after them."""

import pytest
import torch
from space_world import bert
from tiny_models import WRITERS, tiny

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.magnitude import Magnitude
from secateur.methods.method import Method
from secateur.methods.rounds import CoarseRound, in_proportion
from secateur.methods.scheduled import Scheduled
from secateur.methods.schedules import cubic
from secateur.system.errors import UserError

UNITS = ("layer", "ffn", "qk", "vo")
IN_ROUNDS = [name for name, kind in METHODS.all().items() if kind.in_rounds]


def space_of(*units):
    return Space(bert(num_hidden_layers=4), *units)


def in_rounds(name, space, density=0.1):
    """Two of four layers are left at 0.4, and the density is reached between 0.5 and 0.8."""
    layers = CoarseRound("layer", keep=2, begin=0.1, end=0.4)
    return METHODS.get(name)(space, cubic(0.5, density, begin=0.5, end=0.8), rounds=[layers])


def test_units_go_one_after_the_other_in_equal_intervals():
    one = CoarseRound("layer", keep=2, begin=0.2, end=0.6)
    assert [one.count(progress, 6) for progress in (0.0, 0.2, 0.299, 0.3, 0.4, 0.5, 0.6, 1.0)] == [
        6,
        6,
        6,
        5,
        4,
        3,
        2,
        2,
    ]


def test_the_lowest_units_of_the_kind_go_with_all_that_they_contain():
    space = space_of(*UNITS)
    scores = torch.zeros(len(space))
    scores[:4] = torch.tensor([0.3, 0.1, 0.4, 0.2])
    kept = CoarseRound("layer", 2, 0.0, 1.0).kept(space, scores, space.ones().bool(), 1.0)
    for name, rows in space.slices.items():
        assert bool(kept[rows].all()) == (name[0] in "02") == bool(kept[rows].any()), name


@pytest.mark.parametrize("which", WRITERS)
def test_each_stack_keeps_a_layer(which):
    """Also where all layers of the decoder rank below those of the encoder."""
    space = Space(tiny(*which), "layer", "ffn")
    layers, stacks = int(CoarseRound("layer", 2, 0.0, 1.0).units(space).sum()), space.table.stacks
    scores = torch.linspace(1.0, 0.0, len(space))
    kept = CoarseRound("layer", stacks, 0.0, 1.0).kept(space, scores, space.ones().bool(), 1.0)[:layers]
    assert [int(part.sum()) for part in kept.view(stacks, -1)] == [1] * stacks
    with pytest.raises(UserError, match=f"1 layers cannot be kept: expected a whole number from 2 to {layers}"):
        CoarseRound("layer", 1, 0.0, 1.0).check(space)


def test_layers_that_are_spread_are_those_that_are_left_in_the_end_whatever_their_scores():
    """The middle of each half of six; the layers that go are those of the lowest scores among the others."""
    space = Space(bert(num_hidden_layers=6), *UNITS)
    scores = torch.zeros(len(space))
    scores[:6] = torch.tensor([0.9, 0.0, 0.8, 0.7, 0.1, 0.6])
    layers = CoarseRound("layer", 2, 0.0, 1.0, spread=True)
    kept = [layers.kept(space, scores, space.ones().bool(), progress)[:6].nonzero().flatten() for progress in (0.5, 1)]
    assert [list(map(int, left)) for left in kept] == [[0, 1, 2, 4], [1, 4]]


@pytest.mark.parametrize("which", WRITERS)
def test_a_round_of_one_stack_leaves_the_other_as_it_is(which):
    """A shallow decoder: one layer is enough for a round that has no layers of the encoder."""
    space = Space(tiny(*which), "decoder.layer", "encoder.ffn")
    layers = CoarseRound("layer", keep=1, begin=0.0, end=1.0, spread=True)
    layers.check(space)
    kept = space.read(layers.kept(space, space.ones(), space.ones().bool(), 1.0))
    gates = {one.gate: bool(kept.alive[one.gate].all()) for one in space.table.sublayers}
    depth = len({one.layer for one in space.table.sublayers if one.layer.startswith("decoder")})
    middle = f"decoder.{depth // 2}."
    assert {gate for gate, alive in gates.items() if alive} == {
        gate for gate in gates if gate.startswith(("encoder.", middle))
    }


@pytest.mark.parametrize(("count", "expected"), [(2, [1, 1]), (4, [3, 1]), (5, [4, 1]), (8, [6, 2])])
def test_stacks_keep_in_proportion_to_their_layers_and_each_one(count, expected):
    assert in_proportion(count, [6, 2]) == expected


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_layers_first_and_finer_units_after_them(name):
    space = space_of(*UNITS)
    method = in_rounds(name, space)
    method.scores = lambda: torch.linspace(0.0, 1.0, len(space))  # all layers rank below all other units
    for step in range(1, 51):
        before = method.alive.clone()
        method.advance(step / 50)
        assert not (method.alive & ~before).any()
        layers, density = int(method.alive[:4].sum()), space.density(method.alive)
        if method.progress <= 0.5:
            assert density == pytest.approx(layers / 4) and not method.reached_target()
        if method.progress >= 0.4:
            assert layers == 2
    assert method.reached_target()
    achieved = method.plan(0.1).achieved["prunable"]
    assert 0.1 - 3 * float(space.unit_cost()[-1]) / space.total() < achieved <= 0.1
    assert bool(method.plan(0.1).kept[2:4].all())


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_sublayers_go_after_layers_and_before_finer_units(name):
    """Three of four layers are left at 0.3, five of their six sublayers at 0.5, and then finer units go."""
    space = space_of("layer", "sublayer", "ffn", "qk", "vo")
    rounds = [CoarseRound("layer", 3, begin=0.1, end=0.3), CoarseRound("sublayer", 5, begin=0.3, end=0.5)]
    method = METHODS.get(name)(space, cubic(0.7, 0.1, begin=0.5, end=0.8), rounds=rounds)
    method.scores = lambda: torch.linspace(0.0, 1.0, len(space))
    layers, sublayers = (one.units(space) for one in rounds)
    for step in range(1, 51):
        before = method.alive.clone()
        method.advance(step / 50)
        assert not (method.alive & ~before).any() and torch.equal(method.alive, space.closure(method.alive))
        left = int((method.alive & layers).sum()), int((method.alive & sublayers).sum())
        if method.progress == 0.3:
            assert left == (3, 6) and space.density(method.alive) == pytest.approx(0.75)
        if method.progress >= 0.5:
            assert left == (3, 5)
    plan = method.plan(0.1)
    assert 0.1 - 3 * float(space.unit_cost()[-1]) / space.total() < plan.achieved["prunable"] <= 0.1
    assert int((plan.kept & sublayers).sum()) == 5


def test_a_plan_of_another_density_keeps_the_layers():
    """The layers of a round stay, however low their scores are beside those of neurons."""
    space = space_of(*UNITS)
    method = in_rounds("random", space)
    method.scores = lambda: torch.linspace(0.0, 1.0, len(space))
    for step in range(1, 26):
        method.advance(step / 50)
    assert int(method.plan(0.05).kept[:4].sum()) == 2


def test_the_published_ranking_has_one_round():
    with pytest.raises(UserError, match="the published ranking is for parameters alone, in one round"):
        METHODS.get("grain")(space_of(*UNITS), 0.5, rounds=[CoarseRound("layer", 2, 0.0, 1.0)], faithful=True)


@pytest.mark.parametrize(
    ("units", "round", "message"),
    [
        (("ffn",), CoarseRound("layer", 1, 0.0, 1.0), "a round of 'layer' needs units of this kind"),
        (("head", "ffn"), CoarseRound("head", 1, 0.0, 1.0), "a round of 'head' needs units of this kind, one of layer"),
        (UNITS, CoarseRound("layer", 5, 0.0, 1.0), "5 layers cannot be kept: expected a whole number from 1 to 4"),
        (UNITS, CoarseRound("layer", 0, 0.0, 1.0), "0 layers cannot be kept"),
        (UNITS, CoarseRound("layer", 2.5, 0.0, 1.0), "2.5 layers cannot be kept: expected a whole number"),
        (
            UNITS,
            CoarseRound("layer", 2, 0.6, 0.4),
            "has begin=0.6, end=0.4 and recovered=None: expected begin before end",
        ),
        (
            UNITS,
            CoarseRound("layer", 2, 0.4, 0.4),
            "has begin=0.4, end=0.4 and recovered=None: expected begin before end",
        ),
        (
            UNITS,
            CoarseRound("layer", 2, 0.1, 0.4, 0.3),
            "recovered=0.3: expected begin before end, and recovered from end",
        ),
        (
            UNITS,
            CoarseRound("layer", 2, 0.1, "0,4"),
            "progress in a round is '0,4': expected a number from 0 on and up",
        ),
        (
            UNITS,
            CoarseRound("layer", 2, 0.1, 1.4),
            "progress in a round is 1.4: expected a number from 0 on and up to 1",
        ),
    ],
)
def test_a_round_that_does_not_fit_is_refused(units, round, message):
    with pytest.raises(UserError, match=message):
        METHODS.get("random")(space_of(*units), density=0.9, rounds=[round])


LISTENING = [
    *((name, {}) for name in IN_ROUNDS if METHODS.get(name).listens_to is not Method.listens_to),
    ("michel", {"exact": False}),
]


@pytest.mark.parametrize(("name", "options"), LISTENING)
@pytest.mark.parametrize("recovered", [0.6, 0.42, 0.4])
def test_evidence_for_finer_units_is_that_of_the_recovered_model(name, options, recovered):
    """None is collected while the model recovers, and what was collected before does not count.

    Also where a recovery ends within the step in which it begins, or there is none.
    """
    space = space_of(*UNITS)
    layers = CoarseRound("layer", keep=2, begin=0.1, end=0.4, recovered=recovered)
    method = METHODS.get(name)(space, cubic(0.5, 0.1, begin=0.7, end=0.9), rounds=[layers], **options)
    for step in range(1, 14):
        if listening := bool(method.listens_to):
            method.observe(torch.ones(len(space)))
            assert bool(method.importance.any())
        assert listening == (not 0.4 <= method.progress < recovered), step
        before = method.progress
        method.advance(step / 20)
        if before < recovered <= method.progress:
            assert not method.importance.any()


def test_the_methods_that_listen_in_rounds_are_known():
    assert {name for name, _ in LISTENING} == {"fisher", "grain", "michel"}


def test_a_method_whose_constructor_takes_no_rounds_does_not_prune_in_them():
    class OneRound(Scheduled):
        def __init__(self, space, share=None, density=None):
            super().__init__(space, share, density)

    class Inherited(Magnitude):
        pass

    class Stated(Magnitude):
        in_rounds = False

    assert not OneRound.in_rounds and Inherited.in_rounds and not Stated.in_rounds


def test_magnitude_needs_no_evidence_and_knows_that_it_recovers():
    layers = CoarseRound("layer", keep=2, begin=0.1, end=0.4, recovered=0.6)
    method = METHODS.get("magnitude")(space_of(*UNITS), cubic(0.5, 0.1, begin=0.7, end=0.9), rounds=[layers])
    seen = {}
    for step in range(1, 11):
        method.advance(step / 10)
        seen[step] = method.recovering
    assert [step for step, recovering in seen.items() if recovering] == [4, 5]
