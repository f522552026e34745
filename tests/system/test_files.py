"""Atomic writes: after a failure the old content is there, and nothing else."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from secateur.system import files
from secateur.system.errors import UserError
from secateur.system.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    fingerprint,
    read_json,
    refuse_current,
    refuse_fixed,
    refuse_lost,
    refuse_occupied,
    refuse_other_than_model,
    refuse_unwritable,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_text_replaces_the_old_one(tmp_path):
    for text in ("old\n", "naïve\n"):
        atomic_write(tmp_path / "note.txt", text)
        assert (tmp_path / "note.txt").read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["note.txt"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    atomic_write(tmp_path / "note.txt", "old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "note.txt") as temporary:
        temporary.write_text("half of the n")
        raise KeyError
    assert (tmp_path / "note.txt").read_text() == "old" and names(tmp_path) == ["note.txt"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / "note.txt.partial").write_text("half")
    atomic_write(tmp_path / "note.txt", "new")
    assert names(tmp_path) == ["note.txt"]


def test_a_folder_replaces_the_old_one_at_the_end(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new.txt").write_text("new")
        assert names(tmp_path / "model") == ["old.txt"]
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["new.txt"]
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("error", "raised"), [(OSError("disk full"), UserError), (KeyError("x"), KeyError)])
def test_a_folder_whose_writing_fails_is_as_it_was(error, raised, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(raised), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new.txt").write_text("half")
        raise error
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == []


def test_the_old_folder_returns_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    rename = Path.rename

    def refuse(self, target):
        if self.name != "model" and Path(target).name == "model" and ".old" not in self.name:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="nothing was written"), atomic_folder(tmp_path / "model"):
        pass
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old.txt"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(UserError, match="is a file"), atomic_folder(tmp_path / "model"):
        pass
    with pytest.raises(UserError, match="cannot write to"), atomic_folder(tmp_path / "model" / "inner"):
        pass


def test_damaged_json_is_a_users_mistake_and_a_missing_file_is_not(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged .*: expected JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_a_fingerprint_is_the_sha256_of_its_chunks_end_to_end():
    chunks = ["grüße", b"bytes", np.arange(3, dtype=np.uint8)]
    assert fingerprint(chunks) == hashlib.sha256("grüße".encode() + b"bytes\x00\x01\x02").hexdigest()[:16]
    assert len(fingerprint([], digits=64)) == 64


def test_what_is_read_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "data.csv").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("run")
    for place in ("run/teacher", "run/data.csv", tmp_path / "run", "link/teacher", "other/../run"):
        with pytest.raises(UserError, match=f"{place} is read, and replacing run would delete it: choose another"):
            refuse_lost(Path("run"), ["elsewhere", place])
    refuse_lost(Path("run"), [None, "run/none", "runner", "other", "bert-base-uncased", "x" * 5000])


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    refuse_current(tmp_path)
    monkeypatch.chdir(tmp_path / "run")
    for place in (".", "..", "../run"):
        with pytest.raises(UserError, match="the current folder, which is not replaced"):
            refuse_current(Path(place))
    refuse_current(Path("inner"))
    with pytest.raises(UserError, match="the current folder"), atomic_folder(Path(".")):
        pass


def test_the_folder_of_a_file_is_made(tmp_path):
    atomic_write(tmp_path / "new" / "folder" / "note.txt", "new")
    assert (tmp_path / "new" / "folder" / "note.txt").read_text() == "new"


def test_a_file_that_cannot_be_written_is_reported_in_one_sentence(tmp_path):
    atomic_write(tmp_path / "note.txt", "old")
    (tmp_path / "folder").mkdir()
    for place in ("folder", "note.txt/inner", "note.txt/in/ner"):
        with pytest.raises(UserError, match=rf"writing .*{place} failed \(.+\): nothing was written") as refusal:
            atomic_write(tmp_path / place, "new")
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="No space left on device"), atomic_path(tmp_path / "note.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == ["folder", "note.txt"] and (tmp_path / "note.txt").read_text() == "old"


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("old")
    for place in ("note.txt", "new", "new/folder/note.txt"):
        refuse_unwritable(tmp_path / place)
    with pytest.raises(UserError, match=r"because .*note\.txt is a file"):
        refuse_unwritable(tmp_path / "note.txt" / "in" / "ner")
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(UserError, match=f"cannot be written in {tmp_path}: allow it"):
        refuse_unwritable(tmp_path / "new" / "folder")


@pytest.mark.parametrize(
    "refuse", [refuse_occupied, refuse_other_than_model, refuse_fixed], ids=lambda one: one.__name__
)
def test_a_folder_where_a_disk_is_mounted_is_refused_at_once(refuse, tmp_path, monkeypatch):
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "link").symlink_to("volume")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == volume)
    for folder in (volume, tmp_path / "link"):
        with pytest.raises(UserError, match=f"{folder} is where a disk is mounted.*: name a folder inside it"):
            refuse(folder)
    refuse(volume / "model")
    with pytest.raises(UserError, match="is where a disk is mounted"), atomic_folder(tmp_path / "link"):
        raise AssertionError("something was made")


def test_a_folder_is_put_back_whose_writer_was_killed_between_both_renames(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with atomic_folder(folder) as partial:
        (partial / "weights").write_text("old")
    folder.rename(tmp_path / ".model.old")
    monkeypatch.setattr(files, "GRACE", 1000.0)
    with pytest.raises(ValueError), atomic_folder(folder):
        raise ValueError("another writer may be between them at this moment")
    assert not folder.exists()
    monkeypatch.setattr(files, "GRACE", 0.0)
    with pytest.raises(ValueError), atomic_folder(folder):
        raise ValueError("and nothing is written")
    assert (folder / "weights").read_text() == "old" and os.listdir(tmp_path) == ["model"]
