"""Actions that wait for the import of a module."""

import sys
from importlib import import_module

import pytest

from secateur.system.on_import import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported and is not."""
    (tmp_path / "late_module.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "late_module"
    sys.modules.pop("late_module", None)


def test_an_action_runs_once_after_the_import(module):
    seen, finders = [], list(sys.meta_path)
    after_import(module, lambda: seen.append(sys.modules[module].VALUE))
    assert seen == []
    imported = import_module(module)
    assert seen == [1] and sys.meta_path == finders
    import_module(module)
    assert seen == [1]
    assert type(imported.__loader__) is type(imported.__spec__.loader) and "Acting" not in repr(imported.__loader__)


def test_an_action_runs_at_once_for_a_module_that_is_imported(module):
    seen = []
    import_module(module)
    after_import(module, lambda: seen.append(module))
    assert seen == [module]


def test_other_imports_go_on_meanwhile(module):
    finders = list(sys.meta_path)
    after_import("a_module_that_nobody_has", lambda: None)
    try:
        assert import_module(module).VALUE == 1
        with pytest.raises(ModuleNotFoundError):
            import_module("a_module_that_nobody_has")
    finally:
        sys.meta_path[:] = finders
