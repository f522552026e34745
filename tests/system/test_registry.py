"""A registry: the decorator, look-up, entry points, and modules that are imported for what they register."""

import logging
import sys
from dataclasses import replace
from importlib import metadata
from inspect import currentframe

import pytest

from secateur.structure import architectures
from secateur.structure.architectures import roberta
from secateur.system.errors import UserError
from secateur.system.registry import Registry, import_extension


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `plugins` of two modules, each of which registers one thing; and its registry."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from secateur.system.registry import Registry\nTHINGS = Registry('thing', 'plugins.things', __name__)\n"
    )
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(
            f"from plugins import THINGS\n@THINGS.register('{name}')\nclass Thing:\n    name: str\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import plugins

    yield plugins
    for name in [name for name in sys.modules if name.partition(".")[0] == "plugins"]:
        del sys.modules[name]


@pytest.fixture
def entry_points(monkeypatch):
    """Entry points of installed packages, of which the test chooses the values."""
    found = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: [one for one in found if one.group == group])
    return found


def test_modules_of_the_package_are_imported_at_the_first_look_up(package):
    assert "plugins.one" not in sys.modules
    assert list(package.THINGS.all()) == ["one", "two"]
    assert package.THINGS.get("two") is sys.modules["plugins.two"].Thing
    assert package.THINGS.get("two").name == "two"


def test_an_unknown_name_gets_the_nearest_or_all(package):
    with pytest.raises(UserError, match=r"^thing 'onne' is not known: did you mean 'one'\?$"):
        package.THINGS.get("onne")
    with pytest.raises(UserError, match=r"^thing 'xyz' is not known: known are one, two$"):
        package.THINGS.get("xyz")


def test_a_name_is_given_once(package):
    class Other:
        name: str

    with pytest.raises(UserError, match=r"^thing 'one' is registered twice, by plugins\.one\.Thing and by .*Other"):
        package.THINGS.all() and package.THINGS.register("one")(Other)
    package.THINGS.register("one")(package.THINGS.get("one"))  # the same again, as when its module is reloaded


def test_the_dict_that_all_returns_is_a_copy(package):
    package.THINGS.all().clear()
    assert list(package.THINGS.all()) == ["one", "two"]


def test_entry_points_name_modules_or_objects(entry_points, tmp_path, monkeypatch):
    (tmp_path / "foreign.py").write_text(
        "from fractions import Fraction\nclass Plain:\n    name: str\nclass Decorated:\n    name: str\n"
        "REGISTRY.register('decorated')(Decorated)\n".replace("REGISTRY", "__import__('builtins').registry_of_test")
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", "some.things", "secateur.system.errors")
    monkeypatch.setattr("builtins.registry_of_test", registry, raising=False)
    entry_points += [
        metadata.EntryPoint("module", "foreign", "some.things"),
        metadata.EntryPoint("plain", "foreign:Plain", "some.things"),
        metadata.EntryPoint("ignored", "foreign:Decorated", "some.things"),
        metadata.EntryPoint("elsewhere", "foreign:Fraction", "other.things"),
    ]
    assert list(registry.all()) == ["decorated", "plain"]
    assert registry.get("plain").name == "plain"
    sys.modules.pop("foreign")


def test_an_entry_point_that_is_broken_is_reported_and_left_out(entry_points, caplog):
    entry_points.append(metadata.EntryPoint("gone", "no_such_module_of_anyone", "some.things"))
    registry = Registry("thing", "some.things", "secateur.system.errors")
    with caplog.at_level(logging.WARNING, logger="secateur"):
        assert registry.all() == {}
    assert "entry point 'gone' of some.things cannot be loaded: No module named" in caplog.text


@pytest.mark.parametrize("spelled", ["extension_of_mine", "extension_of_mine.py"])
def test_an_extension_is_found_in_the_working_directory(spelled, tmp_path, monkeypatch):
    (tmp_path / "extension_of_mine.py").write_text("LOADED = True\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    import_extension(spelled)
    assert sys.modules.pop("extension_of_mine").LOADED


def test_an_extension_that_cannot_be_imported_is_a_users_mistake():
    with pytest.raises(UserError, match="no_such_module_of_anyone cannot be imported"):
        import_extension("no_such_module_of_anyone")


@pytest.mark.parametrize("taken", ["extension_of_mine", "copy"])
def test_a_file_with_the_name_of_another_module_is_refused(taken, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{taken}.py").write_text("LOADED = True\n")
    if taken != "copy":
        import_extension(str(tmp_path / "first" / f"{taken}.py"))
        import_extension(str(tmp_path / "other" / ".." / "first" / f"{taken}.py"))
    own = sys.modules[taken].__file__
    with pytest.raises(UserError, match=rf"the module {taken!r} is another one here \({own}\): rename the file"):
        import_extension(str(tmp_path / "second" / f"{taken}.py"))
    if taken != "copy":
        del sys.modules[taken]


def test_an_architecture_that_is_registered_again_is_refused_with_both_places():
    base = roberta.ARCHITECTURE
    architectures.register(replace(base, model_type="mine"))
    first = currentframe().f_lineno - 1
    with pytest.raises(UserError, match=rf"by {__name__}, line {first} and by {__name__}, line {first + 3}: choose"):
        architectures.register(replace(base, model_type="mine", counts_from_padding=False))
    with pytest.raises(
        UserError, match=rf"'roberta' is registered twice, by {roberta.__name__}, line \d+ and by {__name__}"
    ):
        architectures.register(replace(base, counts_from_padding=False))
    del architectures.ARCHITECTURES._items["mine"]
