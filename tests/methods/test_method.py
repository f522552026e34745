"""The contract of a method: registration, final masks at sizes that are multiples, and units that are not alive."""

import copy

import pytest
import torch
from tiny_models import METHODS, MONOTONE, taught, tiny

import secateur
from secateur import methods
from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.method import Method
from secateur.methods.random import Random
from secateur.methods.schedules import cubic
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"))


def test_every_method_is_registered_by_its_name():
    assert {
        "cofi": Cofi,
        "grain": Grain,
        "magnitude": Magnitude,
        "random": Random,
    }.items() <= methods.METHODS.all().items()
    assert all(
        methods.METHODS.get(name) is method and method.name == name for name, method in methods.METHODS.all().items()
    )


def test_an_unknown_name_is_refused_with_the_nearest_name_or_all_names():
    with pytest.raises(UserError, match=r"'magnitud' is not known: did you mean 'magnitude'\?$"):
        methods.METHODS.get("magnitud")
    with pytest.raises(UserError, match=rf"'xyz' is not known: known are {', '.join(METHODS)}$"):
        methods.METHODS.get("xyz")


def test_a_method_of_a_user_works_once_it_is_registered(space, monkeypatch):
    monkeypatch.setattr(methods.METHODS, "_items", methods.METHODS.all())  # a copy, so that the laws do not see it

    @secateur.methods.register("last-first")
    class LastFirst(Method):
        def scores(self):
            return torch.arange(len(self.space), dtype=torch.float)

    assert methods.METHODS.get("last-first") is LastFirst
    plan = methods.METHODS.get("last-first")(space).plan(0.3)
    assert plan.method == "last-first" and plan.asked == 0.3
    assert 0.25 < plan.achieved["prunable"] <= 0.3
    rows = space.slices
    assert plan.kept[rows["1.vo"]].all() and not plan.kept[rows["0.ffn"]].any()  # the space ends with 1.vo


def test_a_method_without_scores_is_refused(space):
    with pytest.raises(NotImplementedError, match=r"write scores\(\)"):
        Method(space).scores()


def test_a_refused_plan_leaves_the_method_in_its_mode(space):
    method = Magnitude(Space(space.model, "head")).train()
    with pytest.raises(UserError, match="out of reach"):
        method.plan(0.01)
    assert method.training


def test_the_host_asks_for_the_share_only_where_the_schedule_goes_on_or_units_were_loaded(space, monkeypatch):
    """Several micro-batches in a step set the numbers of the method back to those of the step, and change no units."""
    method, asked = Random(space, cubic(1.0, 0.4, begin=0.2, end=0.4), seed=0), []
    monkeypatch.setattr(
        Space, "share", lambda own, kept, share=Space.share: asked.append(method.progress) or share(own, kept)
    )
    for progress in (0.1, 0.3, 0.4, 0.5, 0.6):
        for _ in range(2):
            method.set_extra_state(method.get_extra_state())
        method.advance(progress)
    assert sorted(set(asked)) == [0.3, 0.4]


def test_units_that_were_loaded_are_within_the_share_after_the_next_step(space):
    """Also where the schedule had ended before: a checkpoint has more units than were left since."""
    method = Random(space, cubic(1.0, 0.4, begin=0.2, end=0.4), seed=0)
    state = copy.deepcopy(method.state_dict())
    method.advance(0.5)
    kept = method.alive.clone()
    method.load_state_dict(state)
    assert bool(method.alive.all()) and not bool(kept.all())
    method.advance(0.5)
    assert torch.equal(method.alive, kept)


# Sizes that are multiples


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("names", [("ffn", "qk", "vo"), ("hidden", "head", "sublayer", "ffn")], ids="-".join)
def test_every_method_keeps_sizes_that_are_multiples_of_round_to(name, names):
    space = Space(tiny("bert"), *names, round_to=8)
    plan = taught(name, space, density=0.6).plan(0.4)
    assert 0 < plan.achieved["prunable"] <= 0.4
    for group in space.groups:
        if group.size > space.table.heads:
            parts = space.table.heads if group.kind in ("qk", "vo") else 1
            assert not bool((plan.kept[space.slices[group.name]].view(parts, -1).sum(dim=1) % 8).any())


def test_a_shape_and_the_published_ranking_refuse_round_to():
    space = Space(tiny("bert"), "ffn", "head", round_to=8)
    with pytest.raises(UserError, match="a shape sets every size"):
        Cofi(space, 1.0, shape={"ffn": 16})
    with pytest.raises(UserError, match="leave faithful out"):
        Grain(space, faithful=True)


# Units that are not alive


@pytest.mark.parametrize("name", [*MONOTONE, "cofi", "subset", "voita"])
def test_a_unit_that_is_not_alive_is_closed_everywhere(name):
    """Its mask is 0 in training, in evaluation and in the plan, and it gets no gradient."""
    space = Space(tiny("bert"), "ffn", "head")
    method = taught(name, space, density=0.9)
    removed = torch.rand(len(space), generator=torch.Generator().manual_seed(1)) < 0.5
    method.alive &= ~removed
    assert not bool(method.eval().masks()[removed].any()) and not bool((method.plan(0.9).kept & removed).any())
    masks = method.train().masks()
    assert not bool(masks[removed].any()) and bool(masks.any())
    if masks.requires_grad:
        masks.square().sum().backward()
        own = [parameter.grad for parameter in method.parameters() if parameter.shape == removed.shape]
        assert own and not any(bool(gradient[removed].any()) for gradient in own)


OBSERVING = [name for name in METHODS if methods.METHODS.get(name).observe is not Method.observe]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OBSERVING)
def test_a_gradient_that_is_not_finite_says_nothing(name, bad):
    """For who calls `observe`: a training and a cut end there."""
    kind = methods.METHODS.get(name)
    method = kind(Space(tiny("bert"), *kind.defaults.get("target.units", ("ffn",))), kind.schedule(0.9, 0.2, 0.8))
    gradient = method.space.ones()
    method.observe(gradient)
    (before,) = (
        value.clone() for key, value in method.state_dict().items() if key in ("importance", "prior.information")
    )
    method.observe(torch.cat([gradient[1:], gradient.new_tensor([bad])]))
    (after,) = (value for key, value in method.state_dict().items() if key in ("importance", "prior.information"))
    assert bool((before > 0).all()) and torch.allclose(after, before * getattr(method, "beta", 1.0))
