"""An output that cannot be written is refused before the work whose result it would be, in one sentence."""

import os

import pytest
from small_world import write_data, write_model
from typer.testing import CliRunner

from secateur.budget.latency import LatencyTable
from secateur.cli import app, cut_work, deploy_work, export_work, study_work


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "classifier", ["bad", "good"])
    write_data(folder / "data.csv")
    return folder


def call(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def worked(*args, **kwargs):
    raise AssertionError("the work is done")


@pytest.fixture
def idle(monkeypatch):
    """No command does what takes long."""
    monkeypatch.setattr(deploy_work, "measure_latency", worked)
    monkeypatch.setattr(study_work, "sensitivity", worked)
    monkeypatch.setattr(study_work, "compare", worked)
    monkeypatch.setattr(export_work, "open_model", worked)
    monkeypatch.setattr(cut_work, "open_model", worked)


COMMANDS = {
    "latency": ("--shape", "1x4", "--units", "ffn"),
    "export": ("--layout", "file"),
    "cut": (),
    "sensitivity": ("--rows", 4),
}


def refusal(world, command, output, *words):
    data = ("--data", world / "data.csv") if command == "sensitivity" else ()
    result = call(command, world / "classifier", *COMMANDS[command], *data, "--output", output, *words)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_under_a_file_is_refused_before_the_work(world, idle, tmp_path, command):
    (tmp_path / "letter").write_text("dear reader")
    assert "cannot" in refusal(world, command, tmp_path / "letter" / "in" / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_is_locked_is_refused_before_the_work(world, idle, tmp_path, monkeypatch, command):
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # the tests may run as root, who may write anywhere
    assert "cannot be written" in refusal(world, command, tmp_path / "out" / "out.onnx")


@pytest.mark.parametrize("command", ["latency", "export"])
@pytest.mark.parametrize("words", [(), ("--overwrite",)], ids=["new", "overwrite"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(world, idle, tmp_path, command, words):
    (tmp_path / "out.onnx").mkdir()
    assert "is a folder: give the name of a file" in refusal(world, command, tmp_path / "out.onnx", *words)


def test_a_folder_in_the_place_of_a_page_is_refused_before_the_work(world, idle, tmp_path):
    (tmp_path / "sensitivity.html").mkdir()
    assert "sensitivity.html is a folder" in refusal(world, "sensitivity", tmp_path)


def test_the_folder_of_a_table_is_made(world, tmp_path):
    output = tmp_path / "new" / "folder" / "table.json"
    words = (*COMMANDS["latency"], "--repeats", 1, "--threads", 1)
    assert call("latency", world / "classifier", "--output", output, *words).exit_code == 0
    assert LatencyTable.load(output).call["part"] == "whole"
