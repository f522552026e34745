"""Measurements of models: latency, memory, sensitivity, inspection and scores.

The package has the name of the public function `secateur.measure`, and importing any of its modules binds that name to
the package. The package itself can therefore be called, which calls `bench.measure`.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """A package that can be called like the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from secateur.measure.bench import measure

        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
