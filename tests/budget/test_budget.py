"""A space and its budget: one share, under one name, and the names that it had before."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.budget import Budget
from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.structure.space import UnitSpace
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def model():
    return tiny("bert")


def test_parameters_are_the_default_budget(model):
    space = Space(model)
    assert space.budget == Parameters() and isinstance(space, UnitSpace)
    kept = space.choose(space.ones(), density=0.5)
    assert torch.equal(kept, space.choose(space.ones(), 0.5))
    assert space.share(kept) == space.density(kept) <= 0.5


@pytest.mark.parametrize("amounts", [{}, {"share": 0.5, "density": 0.5}])
def test_exactly_one_of_share_and_density_is_accepted(model, amounts):
    space = Space(model)
    with pytest.raises(UserError, match="expected one of share and density"):
        space.choose(space.ones(), **amounts)


def test_a_density_is_refused_by_a_budget_other_than_parameters(model):
    space = Space(model, "head", budget=Units())
    with pytest.raises(UserError, match="this space counts units: ask for a share"):
        space.choose(space.ones(), density=0.5)


def test_cost_is_the_old_name_of_budget(model):
    units = Units()
    with pytest.warns(DeprecationWarning, match="budget="):
        space = Space(model, "head", cost=units)
    assert space.budget is units


def test_keep_is_the_old_name_of_choose(model):
    space = Space(model)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    with pytest.warns(DeprecationWarning, match="choose"):
        kept = space.keep(scores, density=0.3)
    assert torch.equal(kept, space.choose(scores, density=0.3))


class Neurons(Budget):
    """A budget defined by a user, which counts the neurons of feed-forward networks."""

    name = "neurons"

    def share(self, space, masks):
        return float(masks.sum()) / len(space)

    def floor(self, space):
        return 0.0

    def check(self, space, share):
        if not 0.0 < share <= 1.0:
            raise UserError("no share of neurons")

    def choose(self, space, scores, share, alive, last):
        return (scores.argsort(descending=True).argsort() < int(share * len(space))) & alive


def test_a_budget_of_a_user_can_be_followed(model):
    space = Space(model, "ffn", budget=Neurons())
    plan = Magnitude(space).plan(share=0.25)
    assert int(plan.kept.sum()) == len(space) // 4
    assert plan.asked is None and plan.latency is None, "a share of neurons is not a density"


@pytest.mark.parametrize("number", [0, "2", 1.5, None])
def test_round_to_is_checked(model, number):
    with pytest.raises(UserError, match=f"round_to {number!r} is not a whole number from 1"):
        Space(model, round_to=number)


def test_a_list_of_units_in_place_of_single_ones_is_refused(model):
    with pytest.raises(UserError, match=r"\['ffn', 'vo'\] is no kind of units: name each by itself"):
        Space(model, ["ffn", "vo"])


@pytest.mark.parametrize("amount", ["0.5", "5%", True, [0.5]])
def test_a_share_that_is_no_number_is_refused(model, amount):
    space = Space(model, "ffn")
    for name, ask in (
        ("share", lambda: space.choose(space.ones(), amount)),
        ("share", lambda: Magnitude(space).plan(amount)),
        ("density", lambda: Magnitude(space).plan(density=amount)),
        ("share", lambda: Magnitude(space, amount)),
        ("density", lambda: Grain(space, density=amount)),
    ):
        with pytest.raises(UserError) as refused:
            ask()
        assert str(refused.value) == f"{name} {amount!r} is not a number: give a fraction such as 0.05"


def test_a_share_of_another_library_is_a_plain_number_in_the_plan(model):
    plan = Magnitude(Space(model, "ffn", "qk", "vo")).plan(torch.tensor(0.5))
    assert type(plan.asked) is float and plan.asked == 0.5
