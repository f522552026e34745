"""Actions that wait for a module of another library: `import secateur` then need not import that library itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(module: str, act: Callable[[], None]) -> None:
    """Call `act` once `module` has been imported: now if it is imported already, else right after its import."""
    if module in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Watch(module, act))


class _Watch(MetaPathFinder):
    """Sees the import of one module, which the finders behind it find, and then leaves `sys.meta_path`."""

    def __init__(self, module: str, act: Callable[[], None]) -> None:
        self.module, self.act = module, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ActingLoader(spec.loader, self.act)
        return spec


class _ActingLoader(Loader):
    """Loads a module as its own loader does, and then acts."""

    def __init__(self, loader: Loader, act: Callable[[], None]) -> None:
        self.loader, self.act = loader, act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, give it its own loader back, and act."""
        self.loader.exec_module(module)
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.act()
