"""The private names of transformers, accelerate and torch: they exist as `compat` expects, and only it uses them."""

import ast
import inspect
import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
import torch
import transformers

from secateur.system import compat

SOURCE = Path(compat.__file__).parents[2]
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if Path(compat.__file__).parent not in path.parents]
ALONE = SOURCE / "surgery" / "compact"
"""Travels with compact models, and imports nothing else of secateur."""
LISTED = {name.path.rpartition(".")[2] for name in compat.NAMES}
KINDS = (transformers.PreTrainedModel, transformers.PreTrainedConfig, transformers.Trainer, torch.nn.Module)
OF_LIBRARIES = {name for kind in KINDS for name in (*dir(kind), *vars(torch.nn.Module())) if re.match(r"_[^_]", name)}
"""The private names of classes that the package derives from, or whose instances it is given."""
UNDOCUMENTED = ("transformers.trainer", "transformers.models", "transformers.data", "accelerate.data_loader")


def found(path):
    """What is under a dotted path: a module, or attributes of one."""
    words = path.split(".")
    for length in range(len(words), 0, -1):
        try:
            module = import_module(".".join(words[:length]))
        except ImportError:
            continue
        return reduce(getattr, words[length:], module)
    raise AssertionError(f"{path} is in no module")


@pytest.mark.parametrize("name", compat.NAMES, ids=lambda name: name.path)
def test_each_name_exists_with_the_parameters_that_are_used(name):
    if name.instance:
        owner, _, attribute = name.path.rpartition(".")
        classes = [kind for kind in found(owner).__mro__ if kind is not object]
        assert any(re.search(rf"\b{attribute}\b", inspect.getsource(kind)) for kind in classes)
        return
    thing = found(name.path)
    if name.parameters is not None:
        parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
        assert parameters[: len(name.parameters)] == list(name.parameters)


def test_a_name_that_is_gone_would_be_noticed():
    with pytest.raises(AttributeError):
        found("transformers.Trainer._run_epochs")


def test_every_name_has_the_version_on_which_it_was_checked():
    assert {name.path.partition(".")[0] for name in compat.NAMES} == set(compat.CHECKED)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", name.version) for name in compat.NAMES)
    assert compat.CHECKED["transformers"].split(".")[0] == transformers.__version__.split(".")[0]


def own_names():
    """Private names that the package itself defines, and no library: functions, methods and attributes."""
    names = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names - OF_LIBRARIES


OWN = own_names()


def private_names(text):
    """Private names that a module accesses, defines in a class or names an argument by; a library's also as text."""
    tree = ast.parse(text)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {node.name for body in bodies for node in body if isinstance(node, ast.FunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & OF_LIBRARIES  # for `getattr`
    return {name for name in attributes | arguments | methods if re.match(r"_[^_]", name)} | texts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_other_modules_use_no_private_name_of_a_library(path):
    text = path.read_text(encoding="utf-8")
    allowed = LISTED if ALONE in path.parents else set()
    assert private_names(text) <= OWN | allowed, "use a function of system/compat, or list the name there"
    modules = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.module]
    assert not [name for name in modules if name.startswith(UNDOCUMENTED)], "use a function of system/compat"


@pytest.mark.parametrize(
    "text",
    [
        "config._attn_implementation = 'eager'",
        "getattr(model.config, '_attn_implementation', None)",
        "self._parameters['weight']",
        "cached_file(name, file, _raise_exceptions_for_missing_entries=False)",
        "class Own(Module):\n    def _load_from_state_dict(self): ...",
    ],
)
def test_a_private_name_is_seen_in_whatever_way_it_is_used(text):
    assert private_names(text) and not private_names(text) <= OWN


# The functions


def test_families_that_generate_are_known():
    heads = compat.sequence_to_sequence_heads()
    assert heads["t5"] == "T5ForConditionalGeneration" and "bert" not in heads


def test_batches_of_other_lengths_are_padded():
    joined = compat.concatenate(torch.ones(1, 2), torch.ones(1, 3), -100)
    assert joined.tolist() == [[1, 1, -100], [1, 1, 1]]


def test_a_change_in_place_changes_the_version():
    tensor = torch.zeros(2)
    before = compat.version_of(tensor)
    tensor.add_(1)
    assert compat.version_of(tensor) > before


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="nowhere"):
        compat.tracker_callback("nowhere")


def test_int8_is_multiplied_in_int32():
    if not compat.multiplies_int8():
        pytest.skip("this PyTorch has no product of int8")
    ones = torch.ones(32, 32, dtype=torch.int8)
    product = compat.int8_product(ones, ones)
    assert product.dtype == torch.int32 and bool((product == 32).all())
