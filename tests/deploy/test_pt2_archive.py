"""A .pt2 file runs nothing when it is opened: what would be run is dropped or refused before PyTorch sees it."""

import json
import os
import pickle
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch
from tiny_models import tiny

from secateur.deploy import pt2_archive, pt2_format
from secateur.deploy.export import export, opened
from secateur.deploy.pt2_program import plain_program
from secateur.deploy.runner import runner
from secateur.system.errors import UserError

PROGRAM = "models/model.json"
WEIGHTS, CONSTANTS = pt2_archive.CONFIGS


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file as we write it."""
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    export(tiny("distilbert", dtype=torch.float32), path)
    return path


def crafted(written, path, change, compression=ZIP_STORED):
    """The file with `change` applied to its entries, name -> content."""
    entries = pt2_archive.entries(written)
    change(entries)
    with ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"model/{name}", content)
    return path


def edit(name, change):
    """A change of an entry of JSON."""

    def applied(entries):
        content = json.loads(entries[name])
        change(content)
        entries[name] = json.dumps(content).encode()

    return applied


def saved(value):
    """As PyTorch saves a value."""
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickled_tensor(entries, trace, config, name, prefix, content):
    """Describe a tensor as pickled, and give it this content."""
    described = json.loads(entries[config])
    payload = next(iter(described["config"].values()))
    payload |= {"use_pickle": True, "path_name": f"{prefix}_0"}
    entries[config] = json.dumps(described).encode()
    entries[f"{config.rpartition('/')[0]}/{prefix}_0"] = content


def set_examples(entries, trace):
    entries["data/sample_inputs/model.pt"] = saved((Payload(trace),))


def set_weight(entries, trace):
    pickled_tensor(entries, trace, WEIGHTS, "weight", "weight", saved(Payload(trace)))


def set_constant(entries, trace):
    pickled_tensor(entries, trace, CONSTANTS, "tensor", "opaque_obj", pickle.dumps(Payload(trace)))


def set_older_weights(entries, trace):
    entries["data/weights/model.pt"] = saved({"weight": Payload(trace)})


def set_older_format(entries, trace):
    entries["serialized_state_dict.pt"] = saved({"weight": Payload(trace)})


def set_library(entries, trace):
    entries["data/aotinductor/model/code.so"] = b"\x7fELF"


PICKLED = [set_weight, set_constant, set_older_weights, set_older_format, set_library]


def test_a_file_that_we_write_has_no_pickle(written):
    entries = pt2_archive.entries(written)
    assert entries.pop(pt2_archive.EXAMPLES) == b""
    assert not [name for name, content in entries.items() if content[:2] in (b"PK", b"\x80\x02", b"\x80\x04")]
    opened(written)


def test_pickled_examples_of_older_files_are_not_read(written, tmp_path):
    trace = tmp_path / "trace"
    path = crafted(written, tmp_path / "older.pt2", lambda entries: set_examples(entries, str(trace)))
    opened(path)
    assert not trace.exists()


@pytest.mark.parametrize("change", PICKLED)
def test_a_file_with_a_pickle_or_a_library_is_refused_before_it_runs(written, tmp_path, change):
    trace = tmp_path / "trace"
    path = crafted(written, tmp_path / "bad.pt2", lambda entries: change(entries, str(trace)))
    with pytest.raises(UserError, match=r"bad\.pt2 cannot be opened .*(pickle|code).*: export the model again"):
        opened(path)
    assert not trace.exists()


def code(trace):
    return f"__import__('os').mkdir({str(trace)!r})"


def graph(program):
    return program["graph_module"]["graph"]


def signature(program):
    return program["graph_module"]["module_call_graph"][0]["signature"]


SOURCES = {
    "size": lambda program, text: graph(program)["sym_int_values"].update(
        s0={"as_expr": {"expr_str": text, "hint": {"as_int": 1}}}
    ),
    "name of a node": lambda program, text: graph(program)["nodes"][0].update(name=text),
    "name of an argument": lambda program, text: signature(program).update(forward_arg_names=[text]),
    "key of a dict": lambda program, text: signature(program).update(
        in_spec=json.dumps([1, {"type": "builtins.dict", "context": json.dumps([text]), "children_spec": []}])
    ),
    "type of a dict": lambda program, text: signature(program).update(
        in_spec=json.dumps([1, {"type": text, "context": "null", "children_spec": []}])
    ),
    "enumeration": lambda program, text: signature(program).update(
        in_spec=json.dumps([1, {"type": None, "context": json.dumps([{"__enum__": True}]), "children_spec": []}])
    ),
    "text of a call": lambda program, text: graph(program)["nodes"][0]["inputs"][0].update(arg={"as_string": text}),
    "custom object": lambda program, text: graph(program)["nodes"][0]["inputs"][0].update(
        arg={"as_custom_obj": {"name": "x", "class_fqn": "y"}}
    ),
    "key": lambda program, text: program.update({text: 1}),
}


@pytest.mark.parametrize("place", SOURCES)
def test_a_program_with_source_in_it_is_refused_before_it_runs(written, tmp_path, place):
    trace = tmp_path / "trace"
    change = edit(PROGRAM, lambda program: SOURCES[place](program, code(trace)))
    with pytest.raises(UserError, match="which may be code"):
        opened(crafted(written, tmp_path / "bad.pt2", change))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["torch.hub.load", "torch.ops.aten.from_file.default", "builtins.eval", "#custom"])
def test_a_call_of_anything_but_an_operator_is_refused(written, name):
    program = json.loads(pt2_archive.entries(written)[PROGRAM])
    graph(program)["nodes"][0]["target"] = name
    with pytest.raises(UserError, match="which may be code"):
        plain_program(program)


def test_guards_are_not_run(written, tmp_path):
    trace = tmp_path / "trace"
    path = crafted(
        written, tmp_path / "guarded.pt2", edit(PROGRAM, lambda program: program.update(guards_code=[code(trace)]))
    )
    pt2_format.load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "text", ["Mul(Integer(16), Symbol('s41', positive=True, integer=True))", "s0", "8*s1 + 1", "-3"]
)
def test_sizes_are_expressions(text):
    assert plain_program({"expr_str": text}) == {"expr_str": text}


@pytest.mark.parametrize(
    "text", ["().__class__", "exit()", "Symbol('a b')", "(lambda: 1)()", "[1][0]", "s0 s1", "(" * 5000]
)
def test_other_expressions_are_no_sizes(text):
    with pytest.raises(UserError, match="which may be code"):
        plain_program({"expr_str": text})


def test_an_archive_that_two_readers_could_read_differently_is_refused(written, tmp_path):
    compressed = crafted(written, tmp_path / "compressed.pt2", lambda entries: None, ZIP_DEFLATED)
    elsewhere, twice = (crafted(written, tmp_path / f"{name}.pt2", lambda entries: None) for name in ("other", "twice"))
    with ZipFile(elsewhere, "a") as archive:
        archive.writestr("other/data/weights/weight_0", b"")
    with pytest.warns(UserWarning, match="Duplicate name"), ZipFile(twice, "a") as archive:
        archive.writestr("model/data/weights/weight_0", b"")
    for path in (compressed, elsewhere, twice):
        with pytest.raises(UserError, match="is compressed, occurs twice or lies elsewhere"):
            opened(path)


@pytest.mark.parametrize("inputs", [{}, [], [1], "input_ids"])
def test_facts_without_names_of_inputs_are_damaged(written, tmp_path, inputs):
    path = crafted(written, tmp_path / "edited.pt2", edit("extra/secateur", lambda facts: facts.update(inputs=inputs)))
    with pytest.raises(UserError, match="damaged facts about itself"):
        runner(path, "pytorch")


def test_a_program_that_fails_when_it_is_run_is_refused_when_it_is_opened(written, monkeypatch):
    def fails(*arrays):
        raise RuntimeError("The size of tensor a (50) must match the size of tensor b (7)")

    monkeypatch.setattr(pt2_format, "load", lambda path: fails)
    with pytest.raises(UserError, match=r"cannot be opened .*size of tensor a.*: export the model again"):
        runner(written, "pytorch")
