"""Module paths of version 0.1.0, which stay importable with a `DeprecationWarning`.

`MOVED` maps an old module to the modules that hold its names now. Where a name itself has changed, `RENAMED` says it.
A finder answers for the old paths alone. It stands first in `sys.meta_path`: a second name of a package must give the
same modules, where the finder of files would make new ones.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from secateur.system.deprecation import deprecated

MOVED: Mapping[str, tuple[str, ...]] = {
    "secateur.architecture": (
        "secateur.structure.architecture",
        "secateur.structure.axis_table",
        "secateur.structure.binding",
    ),
    "secateur.compact": ("secateur.surgery.compact",),
    "secateur.contest": ("secateur.measure.benchmark",),
    "secateur.counting": ("secateur.budget.units",),
    "secateur.errors": ("secateur.system.errors",),
    "secateur.export": ("secateur.deploy.export",),
    "secateur.latency": ("secateur.measure.latency_sweep", "secateur.budget.latency"),
    "secateur.objectives": ("secateur.training.objectives",),
    "secateur.plan": ("secateur.structure.plan", "secateur.structure.fingerprints"),
    "secateur.recipe": ("secateur.run.recipe",),
    "secateur.schedules": ("secateur.methods.schedules",),
    "secateur.space": ("secateur.budget.space",),
    "secateur.stages": ("secateur.run.pipeline",),
    "secateur.tasks.writing": ("secateur.tasks.generation",),
    "secateur.verify": ("secateur.deploy.verify",),
    "secateur.walk": ("secateur.run.density_sweep",),
}
RENAMED: Mapping[str, str] = {
    "secateur.architecture.find": "bind",
    "secateur.architecture.Table": "AxisTable",
    "secateur.contest.contest": "benchmark",
    "secateur.counting.best": "choose_exactly",
    "secateur.plan.fingerprint": "weights_fingerprint",
    "secateur.tasks.writing.Search": "BeamSearch",
    "secateur.tasks.writing.texts_of": "decode",
    "secateur.tasks.writing.write": "generate",
    "secateur.walk.walk": "sweep",
}
"""Old name, with its module -> the name in the module that holds it now."""
ALIASES: Mapping[str, str] = {
    "secateur.architectures": "secateur.structure.architectures",
    "secateur.terms": "secateur.training.terms",
    "secateur.runtimes": "secateur.deploy.runtimes",
}
"""Public packages whose code is elsewhere: importable under both names, with all their modules, without a warning."""


class CallableModule(ModuleType):
    """A module that shares its name with a public function, and can be called as that function.

    Once such a module is imported, its package has the module under that name, not the function.

    Attributes:
        target: `module:function` that a call of the module calls.
        moved: the name in place of which to call it, and that which is public, if a call warns.
    """

    target: str
    moved: tuple[str, str] | None = None

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_find(self.target))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.moved:
            deprecated(*self.moved, how="has moved to")
        return _find(self.target)(*args, **kwargs)


def make_callable(module: str, function: str, moved: tuple[str, str] | None = None) -> None:
    """Let a module that is being imported be called as one of its functions, or one of its modules' (`target`)."""
    found = sys.modules[module]
    found.__class__ = CallableModule
    vars(found).update(target=function, moved=moved)


def _find(place: str) -> Any:
    """The value at `module:name`; the name may have dots."""
    path, _, names = place.partition(":")
    return reduce(getattr, names.split("."), import_module(path))


class MovedModule(CallableModule):
    """An old path: looks its names up where they are now. Called, it is the public function of its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        function = name.rpartition(".")[2]
        self.target = f"{MOVED[name][0]}:{RENAMED.get(f'{name}.{function}', function)}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        new = RENAMED.get(f"{self.__name__}.{name}", name)
        for path in MOVED[self.__name__]:
            module = import_module(path)
            if hasattr(module, new):
                deprecated(f"{self.__name__}.{name}", f"{path}.{new}", how="has moved to")
                return getattr(module, new)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class MovedFinder(MetaPathFinder, Loader):
    """Finds the old paths of `MOVED` and the second names of `ALIASES`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            return ModuleSpec(fullname, self)
        if _alias(fullname) is not None:
            return ModuleSpec(fullname, self, is_package=fullname in ALIASES)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        target = _alias(spec.name)
        if target is None:
            return MovedModule(spec.name)
        module = import_module(target)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give an alias its own spec back, which the import has replaced; it was executed under its own name."""
        own = module.__spec__.loader_state if module.__spec__ is not None else None
        if isinstance(own, ModuleSpec):
            module.__spec__ = own


def _alias(fullname: str) -> str | None:
    """Where the module of a second name is, None if it is not one."""
    for name, target in ALIASES.items():
        if fullname == name or fullname.startswith(f"{name}."):
            return target + fullname.removeprefix(name)
    return None


def install() -> None:
    """Make the old paths importable; once."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())


def moved_names(module: str, places: Mapping[str, str], frames: int = 1) -> Callable[[str], Any]:
    """A `__getattr__` for a module that has lost names: old name -> `module:name`, where it is now.

    For modules whose old path is a room of today, such as `secateur.training`, which the finder never sees. `frames` is
    the number of calls between it and the code that uses the old name, to which the warning points.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = _find(places[name])
        deprecated(f"{module}.{name}", places[name].replace(":", "."), how="has moved to", frames=frames)
        return value

    return __getattr__
