"""The versions of files: every file names its own, older ones are read, later ones are refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import save_file

from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion
from secateur.system.tensor_file import load_tensors, read_notes, save_tensors

FIRST = FileFormat()
THIRD = FileFormat(3, {1: lambda values: {"b": values["a"]}, 2: lambda values: values | {"c": 0}})


def test_a_file_is_written_merged_and_read(tmp_path):
    path = tmp_path / "a.json"
    FIRST.write(path, {"x": 1})
    assert path.read_text() == '{\n "version": 1,\n "x": 1\n}\n'
    FIRST.merge(path, {"y": 2})
    FIRST.merge(tmp_path / "new" / "b.json", {"z": 3})
    assert FIRST.read(path) == {"x": 1, "y": 2}
    assert FIRST.read_if_any(tmp_path / "new" / "b.json") == {"z": 3}
    assert FIRST.read_if_any(tmp_path / "none.json") == {}
    with pytest.raises(FileNotFoundError):
        FIRST.read(tmp_path / "none.json")


def test_each_line_of_a_log_has_the_version(tmp_path):
    for step in (1, 2):
        FIRST.append(tmp_path / "log.jsonl", {"step": step})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"version": 1, "step": 1}, {"version": 1, "step": 2}]


@pytest.mark.parametrize(
    "older", [{"a": 5}, {"version": 1, "a": 5}, {"version": 2, "b": 5}, {"version": 3, "b": 5, "c": 0}]
)
def test_an_older_file_is_read_as_one_of_this_version(older, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(older))
    assert THIRD.read(tmp_path / "a.json") == {"b": 5, "c": 0}
    THIRD.merge(tmp_path / "a.json", {"c": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"version": 3, "b": 5, "c": 1}


@pytest.mark.parametrize(
    ("version", "advice"), [(4, "update secateur"), (0, "copy or write it again"), ("1", "copy or write it again")]
)
def test_a_version_that_is_not_read_is_refused(version, advice, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text := json.dumps({"version": version, "a key of that version": 1}))
    for use in (THIRD.read, THIRD.read_if_any, lambda place: THIRD.merge(place, {"x": 1})):
        with pytest.raises(NewerVersion) as refusal:
            use(path)
        assert str(refusal.value) == f"{path} has version {version!r}, and this secateur reads 1 to 3: {advice}"
    assert path.read_text() == text, "the file is unchanged"


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_file_without_keys_and_values_is_damaged(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        THIRD.read(tmp_path / "a.json")


def test_tensors_have_the_version_beside_their_notes(tmp_path):
    path, tensors = tmp_path / "a.safetensors", {"x": torch.arange(6).view(2, 3).T}
    save_tensors(path, tensors, THIRD, {"step": "7"})
    assert read_notes(path, THIRD) == {"step": "7"}
    assert torch.equal(load_tensors(path, THIRD)["x"], tensors["x"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(NewerVersion, match=r"a\.safetensors has version 3, and this secateur reads 1 to 1: update"):
        load_tensors(path, FIRST)
    save_file(tensors := {"x": torch.ones(2)}, path)
    assert torch.equal(load_tensors(path, FIRST)["x"], tensors["x"]) and read_notes(path, FIRST) == {}
    save_file(tensors, path, {"version": "one"})
    with pytest.raises(NewerVersion, match="has version 'one'"):
        read_notes(path, FIRST)
