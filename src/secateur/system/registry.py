"""Registries: the things that recipes and the command line refer to by name, built in or from other packages.

Methods, tasks, architectures, loss terms and runtimes have one `Registry` each. A name is registered in one of three
ways: by the decorator in a file of this package, by the decorator in any module that is imported (`--import` on the
command line), or by an entry point of an installed package in the group of the registry, such as

    [project.entry-points."secateur.methods"]
    mine = "my_package.pruning:Mine"
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib import import_module, metadata
from inspect import currentframe
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Generic, TypeVar

from secateur.system.errors import UserError, as_user_error

T = TypeVar("T")

extensions: list[str] = []
"""What `import_extension` has imported, by which another process can do the same."""

logger = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Named things of one kind.

    The modules of this package and the entry points are loaded at the first look-up.

    Args:
        kind: the word for one item in messages, such as "method".
        group: the group of entry points, such as "secateur.methods".
        built_in: the module, or the package with all its modules, whose import registers the built-in items.
    """

    def __init__(self, kind: str, group: str, built_in: str) -> None:
        self.kind, self.group, self.built_in = kind, group, built_in
        self._items: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: register an object by this name; a class gets the name as its attribute `name`.

        Raises:
            UserError: another object is registered by this name.
        """

        def decorate(item: T) -> T:
            self._add(name, item, _origin(item) or _caller((__name__, self.built_in)))
            return item

        return decorate

    def _add(self, name: str, item: T, place: str) -> None:
        """Register an object; `place` says in errors what does so."""
        present = self._items.get(name)
        if present is not None and not _same(present, item):
            raise UserError(
                f"{self.kind} {name!r} is registered twice, by {self._places[name]} and by {place}: choose another "
                "name, or start Python again after a change"
            )
        if isinstance(item, type):
            item.name = name  # type: ignore[attr-defined]  # every class that is registered declares it
        self._items[name], self._places[name] = item, place

    def get(self, name: str) -> T:
        """The object that is registered by this name.

        Raises:
            UserError: there is none; the message suggests the most similar name, or lists all names.
        """
        items = self.all()
        if name not in items:
            near = get_close_matches(name, items, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(items)}"
            raise UserError(f"{self.kind} {name!r} is not known: {hint}")
        return items[name]

    def all(self) -> dict[str, T]:
        """All registered objects by name, in alphabetical order."""
        if not self._loaded:
            self._loaded = True
            _import_all(self.built_in)
            for entry in metadata.entry_points(group=self.group):
                self._load(entry)
        return dict(sorted(self._items.items()))

    def _load(self, entry: metadata.EntryPoint) -> None:
        """Import the object of an entry point; if its module has not registered it, it gets the entry point's name."""
        try:
            item: Any = entry.load()
        except Exception as error:
            logger.warning("the entry point %r of %s cannot be loaded: %s", entry.name, self.group, error)
            return
        if not isinstance(item, ModuleType) and not any(item is known for known in self._items.values()):
            self._add(entry.name, item, _origin(item) or f"the entry point {entry.value}")


def import_extension(module: str) -> None:
    """Import a module that registers things: a dotted name (also found in the working directory), or a .py file.

    Raises:
        UserError: it cannot be imported, or another file of the name of its module is imported already.
    """
    path = Path(module)
    is_file = path.suffix == ".py"
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with as_user_error(f"{module} cannot be imported", "give a module that Python finds, or the path of a .py file"):
        imported = import_module(path.stem if is_file else module)
    own = getattr(imported, "__file__", None) or "built in"
    if is_file and Path(own.removesuffix("c")).resolve() != path.resolve():
        raise UserError(
            f"{module} is not imported, because the module {path.stem!r} is another one here ({own}): rename the file"
        )
    extensions.append(module)


def _import_all(name: str) -> None:
    module = import_module(name)
    for child in iter_modules(getattr(module, "__path__", ())):
        import_module(f"{name}.{child.name}")


def _same(one: object, other: object) -> bool:
    """Whether two objects are the same, or one class that was defined twice because its module was imported again."""
    return one == other or (isinstance(one, type) and isinstance(other, type) and _origin(one) == _origin(other))


def _origin(item: object) -> str:
    """Where a class or a function is defined; empty for any other object, which does not know it."""
    name = getattr(item, "__qualname__", None)
    return f"{getattr(item, '__module__', '')}.{name}" if name else ""


def _caller(passed_over: Collection[str]) -> str:
    """The module and the line that register something, outside of modules whose functions pass it on."""
    frame = currentframe()
    while frame is not None and frame.f_globals.get("__name__") in passed_over:
        frame = frame.f_back
    return "unknown code" if frame is None else f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}"
