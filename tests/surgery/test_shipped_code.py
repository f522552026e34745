"""The one file of code in a compact folder: made of small modules, and the same classes as theirs."""

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

from secateur.surgery import auto_names, schema
from secateur.surgery.compact import (
    attention,
    attention_calls,
    disentangled,
    hub_files,
    integrity,
    kernels,
    modules,
    pretrained,
    resizing,
    shapes,
)
from secateur.surgery.shipped_code import SOURCES, shipped_code

PARTS = (
    *(schema, modules, kernels, attention, disentangled, attention_calls, shapes, resizing),
    *(integrity, hub_files, auto_names, pretrained),
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped file as a module of its own."""
    path = tmp_path_factory.mktemp("shipped") / "modeling_secateur.py"
    path.write_text(shipped_code())
    spec = importlib.util.spec_from_file_location("modeling_secateur", path)
    module = sys.modules["modeling_secateur"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["modeling_secateur"]


def definitions(text):
    """Name -> what is assigned or defined under it at the top of a file, as code without comments."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[target.id] = ast.unparse(node)
    return found


def sources():
    return [Path(part.__file__).read_text() for part in PARTS]


def test_it_imports_torch_transformers_and_the_standard_library_only():
    roots = set()
    for node in ast.walk(ast.parse(shipped_code())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.split(".")[0])
    assert roots <= {"torch", "transformers", *sys.stdlib_module_names}


def test_it_contains_every_definition_of_its_sources_and_no_other():
    assert len(SOURCES) == len(PARTS)
    expected = {}
    for text in sources():
        own = definitions(text)
        assert not set(own) & set(expected), "two modules define the same name"
        expected |= own
    assert definitions(shipped_code()) == expected


def test_comments_are_kept_and_imports_are_once_at_the_top():
    lines = shipped_code().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert max(Counter(imports).values()) == 1
    assert lines.index(imports[-1]) < min(n for n, line in enumerate(lines) if line.startswith(("class ", "def ", "@")))
    for text in sources():
        assert all(line in lines for line in text.splitlines() if line.strip().startswith("#"))


def test_it_is_the_same_each_time(shipped):
    assert shipped_code() == shipped_code.__wrapped__()
    assert shipped.own_code() == shipped.Pruned.code() == shipped_code() == pretrained.Pruned.code()


def test_its_classes_make_compact_classes_of_stock_ones(shipped):
    compact = shipped.PrunedBertModel
    assert compact is shipped.pruned(compact.stock) and compact.__module__ == "modeling_secateur"
    assert [one.__name__ for one in compact.__mro__] == [one.__name__ for one in pretrained.PrunedBertModel.__mro__]
    with pytest.raises(AttributeError, match="BortModel"):
        shipped.PrunedBortModel  # noqa: B018 - the access is what is tested


def test_each_way_of_calling_an_attention_has_its_class(shipped):
    assert set(shipped.ATTENTIONS) == set(schema.CALLS)
