"""Names of version 0.1.0 that methods still understand: members of the contract, and entries of a saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, cast

from torch import nn

from secateur.system.deprecation import deprecated

MEMBERS: Mapping[str, str] = {
    "readings": "log_values",
    "settled": "reached_target",
    "fills": "fills_zeroed_blocks",
}
"""Old name of a member of the contract -> its present name."""


class RenamedMembers(nn.Module):
    """Base of a method: a subclass may define and call members under their old names, with a `DeprecationWarning`."""

    renamed_state: Mapping[str, str] = {}
    """Old name of a buffer or parameter in a saved state -> its present name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_state)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old, new in MEMBERS.items():
            names = f"{cls.__name__}.{old}", f"{cls.__name__}.{new}"
            if old in vars(cls):
                deprecated(*names)
                setattr(cls, new, vars(cls)[old])
            elif new in vars(cls):
                setattr(cls, old, _warning(vars(cls)[new], names))


def _warning(member: Any, names: tuple[str, str]) -> Any:
    """A method or property that warns and returns what `member` does."""

    function: Callable[[Any], Any] = cast(Any, member).fget if isinstance(member, property) else member

    @wraps(function)
    def call(self: Any) -> Any:
        deprecated(*names)
        return function(self)

    return property(call) if isinstance(member, property) else call


def _rename_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename old entries of a saved state before it is loaded."""
    for old, new in cast(RenamedMembers, module).renamed_state.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
