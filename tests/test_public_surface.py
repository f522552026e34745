"""The public surface: its names and parameters, what an import costs, and that what 0.1.0 documented is still there.

`python tests/test_public_surface.py` writes the snapshot again, after a change that is meant.
"""

import ast
import inspect
import json
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import secateur
from secateur.system.moved import MOVED, RENAMED

SNAPSHOT = Path(__file__).parent / "public_surface.json"
OLD = json.loads((Path(__file__).parent / "fixtures" / "v0_1_0" / "public.json").read_text(encoding="utf-8"))
NAMES = [(module, name) for module, names in OLD.items() for name in names]


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


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_name_is_found_under_its_new_one(old):
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = getattr(import_module(module), name)
    assert found.__name__ == RENAMED[old]


def test_a_family_has_one_table_under_both_paths():
    old, new = (
        import_module(f"{path}.roberta") for path in ("secateur.architectures", "secateur.structure.architectures")
    )
    assert old.ARCHITECTURE is new.ARCHITECTURE


EACH_IN_ITS_OWN = """
import os, sys
import datasets, transformers.trainer
for code in sys.argv[1:]:
    child = os.fork()
    if not child:
        exec(code, {})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, code
"""
"""Runs each code in a process that has imported the libraries, which take seconds, and nothing of secateur."""


def test_public_names_are_found_in_a_new_process_after_old_modules_were_imported():
    """A public function is callable, though a module of its name was; a table has its method under both paths."""
    codes = [
        f"from {module} import LatencyTable; assert LatencyTable.measure" for module in ("secateur.latency", "secateur")
    ]
    functions = "secateur.export, secateur.verify, secateur.contest, secateur.measure"
    codes.append("import secateur.export, secateur.verify, secateur.contest, secateur\n")
    codes[-1] += f"assert all(map(callable, ({functions})))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", EACH_IN_ITS_OWN, *codes], check=True)


def test_modules_that_are_called_have_the_parameters_of_their_function():
    assert parameters(import_module("secateur.measure")) == parameters(import_module("secateur.measure.bench").measure)
    assert parameters(import_module("secateur.export")) == parameters(import_module("secateur.deploy.export").export)


def test_the_module_of_cut_can_be_called_as_its_function():
    from secateur.surgery import cut

    with pytest.warns(DeprecationWarning, match=r"has moved to secateur\.cut"), pytest.raises(AttributeError):
        cut(None, None)


def test_unknown_names_of_an_old_path_are_no_attributes():
    assert not hasattr(import_module("secateur.space"), "nothing")


def test_all_that_is_listed_is_there():
    assert [name for name in secateur.__all__ if not hasattr(secateur, name)] == []
    assert set(secateur.__all__) <= set(dir(secateur))


def test_names_that_are_not_public_any_more_say_so():
    with pytest.warns(DeprecationWarning, match="has moved to") as warned:
        exec("from secateur import contest, register", {})
    assert {warning.filename for warning in warned} == {"<string>"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        secateur.nothing  # noqa: B018 - the look-up is what is tested


def test_type_checkers_are_told_the_same_names_as_users():
    tree = ast.parse(Path(secateur.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(secateur.__all__)


# The snapshot


def parameters(function):
    """The parameters of a function with their defaults, without annotations and addresses."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.Signature(bare)))


def surface(value):
    """The parameters of a function; of a class, those of all its public methods that this package defines."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return "exception"
    if inspect.isclass(value):
        own = [kind for kind in value.__mro__ if kind.__module__.startswith("secateur")]
        names = {name for kind in own for name in vars(kind) if name == "__init__" or not name.startswith("_")}
        methods = {name: getattr(value, name) for name in sorted(names)}
        return {
            name: parameters(method)
            for name, method in methods.items()
            if inspect.isroutine(method) and callable(method)
        }
    return parameters(value) if callable(value) else type(value).__name__


def current_surface():
    return {name: surface(getattr(secateur, name)) for name in sorted(secateur.__all__)}


def test_the_surface_is_that_of_the_snapshot():
    assert current_surface() == json.loads(SNAPSHOT.read_text(encoding="utf-8")), "if it is meant, see above"


# The cost of an import

HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "matplotlib", "pydantic", "typer")


def modules_after(code):
    """The modules that a new process has imported after it has run the code."""
    code = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_an_import_of_the_package_imports_no_library():
    assert not modules_after("import secateur; dir(secateur); secateur.__version__") & set(HEAVY)


def test_an_auto_class_of_transformers_costs_no_more_after_it():
    auto = "from transformers import AutoModelForSequenceClassification"
    more = modules_after(f"import secateur\n{auto}") - modules_after(auto)
    assert not more & set(HEAVY)
    assert not [name for name in more if name.startswith("transformers")]


def test_libraries_that_only_some_tasks_need_are_imported_when_they_are_used():
    later = {"matplotlib", "sklearn", "seqeval", "onnxruntime", "openvino", "typer"}
    without_data = (
        "from secateur import Grain, Space, cut, load, save\nimport sys\nassert 'datasets' not in sys.modules"
    )
    code = f"{without_data}\nfrom secateur import PruningTrainer"
    assert not modules_after(code) & later


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current_surface(), indent=1) + "\n", encoding="utf-8")
