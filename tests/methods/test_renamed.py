"""Members and saved states under their names of version 0.1.0 still work, with a warning."""

import pytest
import torch
from tiny_models import taught, tiny

from secateur.budget.space import Space
from secateur.methods.method import Method
from secateur.methods.renamed import MEMBERS


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"), "head")


@pytest.mark.parametrize(("old", "new"), MEMBERS.items())
@pytest.mark.parametrize("name", ["magnitude", "movement", "cofi"])
def test_an_old_member_returns_what_the_new_one_does(space, name, old, new):
    method = taught(name, space, 0.9)
    expected = getattr(method, new)
    with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}"):
        found = getattr(method, old)
        if callable(found):
            found, expected = found(), expected()
    assert found == expected


def test_a_subclass_may_define_members_under_their_old_names(space):
    with pytest.warns(DeprecationWarning, match="Old") as warned:

        class Old(Method):
            def readings(self):
                return {**super().readings(), "more": 1.0}

            def settled(self):
                return False

            @property
            def fills(self):
                return True

    messages = {str(warning.message).partition(";")[0] for warning in warned}
    assert messages == {f"Old.{old} is now Old.{new}" for old, new in MEMBERS.items()}
    method = Old(space)
    with pytest.warns(DeprecationWarning, match=r"Method\.readings is now"):
        assert method.log_values() == {"density": 1.0, "more": 1.0}
    assert not method.reached_target() and method.fills_zeroed_blocks


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("subset", "worth", "learned_scores"),
        ("michel", "heard", "importance"),
        ("cofi", "reopened", "settling.reopened"),
    ],
)
def test_a_saved_state_is_loaded_from_its_old_name(space, name, old, new):
    state = taught(name, space, 0.9, steps=2).state_dict()
    expected = state[new].clone()
    nested = torch.nn.ModuleDict({"method": taught(name, space, 0.9, steps=3, seed=1)})
    nested.load_state_dict({f"method.{old if key == new else key}": value for key, value in state.items()})
    assert torch.equal(nested.state_dict()[f"method.{new}"], expected)
