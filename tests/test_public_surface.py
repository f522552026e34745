"""The public surface: what version 0.1.0 documented can still be imported."""

import json
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import secateur
from secateur.system.moved import MOVED

OLD = json.loads((Path(__file__).parent / "fixtures" / "v0_1_0" / "public.json").read_text(encoding="utf-8"))
# `from secateur.surgery import cut` gives the module of the room today, and `secateur.cut` the function.
CHANGED = {("secateur.surgery", "cut")}
NAMES = [(module, name) for module, names in OLD.items() for name in names if (module, name) not in CHANGED]


@pytest.mark.parametrize("module", OLD)
def test_every_old_module_is_importable(module):
    import_module(module)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_old_name_is_there(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(f"from {module} import {name}", {})


@pytest.mark.parametrize("module", [module for module in OLD if module in MOVED and OLD[module]])
def test_an_old_path_says_where_its_names_are(module):
    with pytest.warns(DeprecationWarning, match="has moved to"):
        getattr(import_module(module), OLD[module][0])


@pytest.mark.parametrize(("old", "new"), [("write", "generate"), ("Search", "BeamSearch"), ("texts_of", "decode")])
def test_an_old_name_is_the_object_of_the_new_name(old, new):
    generation = import_module("secateur.tasks.generation")
    with pytest.warns(DeprecationWarning, match=f"writing.{old} has moved to secateur.tasks.generation.{new}"):
        assert getattr(import_module("secateur.tasks.writing"), old) is getattr(generation, new)


def test_a_family_has_one_table_under_both_paths():
    old, new = (
        import_module(f"{path}.roberta") for path in ("secateur.architectures", "secateur.structure.architectures")
    )
    assert old.ARCHITECTURE is new.ARCHITECTURE


def test_a_public_function_can_be_called_after_the_old_module_of_its_name_was_imported():
    code = "import secateur.export, secateur.verify, secateur.contest, secateur\n"
    code += "assert all(map(callable, (secateur.export, secateur.verify, secateur.contest, secateur.measure)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_of_an_old_path_are_no_attributes():
    assert not hasattr(import_module("secateur.space"), "nothing")


def test_all_that_is_listed_is_there():
    assert [name for name in secateur.__all__ if not hasattr(secateur, name)] == []
