"""Measurements of models: latency, memory, sensitivity, inspection and scores.

The room shares its name with the public function `secateur.measure`, and an import of any of its modules binds that
name to the room. So the room itself can be called, which is `bench.measure`.
"""

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    """A package that is called as the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from secateur.measure.bench import measure

        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
