"""Temporary folders of killed writers are removed, and those of writers that may live are not."""

import os
import subprocess
import sys
import time

import pytest

from secateur.system import writers
from secateur.system.files import atomic_folder

ELSEWHERE = "0123abcd"


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(folder, name, age=0.0):
    """A temporary folder with a file in it, unchanged for `age` seconds."""
    path = folder / name
    path.mkdir()
    (path / "weights").write_text("half")
    for entry in (path / "weights", path):
        os.utime(entry, (time.time() - age,) * 2)
    return name


@pytest.mark.parametrize(
    ("where", "alive", "age", "stays"),
    [
        ("here", True, 0, True),
        ("here", False, 0, False),
        (ELSEWHERE, False, 0, True),  # the number of a process on another host says nothing here
        (ELSEWHERE, False, 3600, True),
        (ELSEWHERE, True, 25 * 3600, False),
        ("", False, 0, True),  # of version 0.1.0, which wrote no place
        ("", False, 25 * 3600, False),
    ],
)
def test_a_folder_is_removed_once_its_writer_is_known_to_be_dead(tmp_path, dead, where, alive, age, stays):
    place = f"{writers.place() if where == 'here' else where}." if where else ""
    name = left(tmp_path, f".model.{place}{os.getpid() if alive else dead}.abc", age)
    with atomic_folder(tmp_path / "model"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == ({"model", name} if stays else {"model"})


def test_a_file_that_still_grows_keeps_an_old_folder(tmp_path, dead):
    name = left(tmp_path, f".model.{ELSEWHERE}.{dead}.abc", 25 * 3600)
    (tmp_path / name / "weights").write_text("more")
    os.utime(tmp_path / name, (0, 0))
    writers.remove_abandoned(tmp_path / "model")
    assert (tmp_path / name).exists()


def test_folders_of_other_names_stay(tmp_path, dead):
    name = left(tmp_path, f".other.{writers.place()}.{dead}.abc", 25 * 3600)
    writers.remove_abandoned(tmp_path / "model")
    assert (tmp_path / name).exists()


def test_the_name_of_a_temporary_folder_identifies_its_writer(tmp_path):
    with atomic_folder(tmp_path / "model") as partial:
        assert partial.name.startswith(f".model.{writers.place()}.{os.getpid()}.")


def test_a_restart_and_another_container_are_other_places(tmp_path, monkeypatch):
    here = writers.place.__wrapped__()
    assert here == writers.place.__wrapped__()
    for name in ("BOOT_ID", "PID_NAMESPACE"):
        with monkeypatch.context() as patch:
            other = tmp_path / name
            other.write_text("other", encoding="ascii")
            patch.setattr(writers, name, other)
            assert writers.place.__wrapped__() != here


def test_a_system_without_proc_has_a_place_too(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "BOOT_ID", tmp_path / "missing")
    assert len(writers.place.__wrapped__()) == 8
