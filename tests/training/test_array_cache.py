"""A cache: entries are complete or missing, all within a limit, whoever is killed and whatever is damaged."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from secateur.system import process_memory
from secateur.system.errors import UserError
from secateur.training import array_cache
from secateur.training.array_cache import ROOM_FOR_ABOUT, ArrayCache, ArrayType, entry_bytes

A, B, C = "a" * 16, "b" * 16, "c" * 16
SIZE = 8000
"""Bytes of what `numbers` makes."""


NUMBERS = ArrayType((SIZE // 8,), "int64")


def numbers(draft):
    draft.arrays({"numbers": NUMBERS})["numbers"][:] = np.arange(SIZE // 8)


def never(draft):
    raise AssertionError("made again")


def opened(folder, entries=10):
    return ArrayCache(folder, entries * (SIZE + ROOM_FOR_ABOUT), "ask for less")


def keys(folder):
    return {path.name for path in folder.iterdir() if path.is_dir()}


def used(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_computed_once_and_memory_mapped(tmp_path):
    made = opened(tmp_path).get(A, numbers)["numbers"]
    again = opened(tmp_path).get(A, never)["numbers"]
    assert isinstance(again, np.memmap) and not again.flags.writeable
    assert np.array_equal(made, np.arange(SIZE // 8)) and np.array_equal(again, made)


@pytest.mark.skipif(not process_memory.measurable(), reason="only Linux reports resident memory")
def test_pages_that_were_read_are_released_and_read_again(tmp_path):
    def compute(draft):
        (array,) = draft.arrays({"ones": ArrayType((2**25,), "uint8")}).values()
        array[:] = 1
        array_cache.release_pages(array)

    before = process_memory.held(process_memory.NOW)
    array = ArrayCache(tmp_path, 1e9, "").get(A, compute)["ones"]
    assert process_memory.held(process_memory.NOW) - before < array.nbytes / 2
    assert array.all()
    assert process_memory.held(process_memory.NOW) - before > array.nbytes / 2
    array_cache.release_pages(array)
    assert process_memory.held(process_memory.NOW) - before < array.nbytes / 2 and array.all()


def test_an_empty_array_is_kept(tmp_path):
    opened(tmp_path).get(A, lambda draft: draft.arrays({"none": ArrayType((5, 0), "float16")}))
    assert opened(tmp_path).get(A, never)["none"].shape == (5, 0)


def test_the_least_recently_used_entry_is_removed_first(tmp_path):
    for key, age in ((A, 100), (B, 200)):
        opened(tmp_path).get(key, numbers)
        os.utime(tmp_path / key, (1e9 - age, 1e9 - age))
    opened(tmp_path).get(B, never)
    opened(tmp_path, 2).get(C, numbers)
    assert keys(tmp_path) == {B, C}
    assert used(tmp_path) <= opened(tmp_path, 2).limit


def test_the_limit_holds_while_an_entry_is_written(tmp_path):
    types, seen = {"one": NUMBERS, "two": NUMBERS}, []

    def two(draft):
        draft.arrays(types)
        seen.append(used(tmp_path))

    for key in (A, B):
        opened(tmp_path).get(key, numbers)
    limit = entry_bytes(types.values())
    assert limit == 2 * SIZE + ROOM_FOR_ABOUT
    ArrayCache(tmp_path, limit, "").get(C, two)
    assert keys(tmp_path) == {C} and seen[0] <= limit and used(tmp_path) <= limit


def test_an_entry_above_the_limit_is_refused_and_nothing_is_removed_for_it(tmp_path):
    opened(tmp_path).get(A, numbers)
    with pytest.raises(UserError, match="limit is 1e-06 GB: ask for less"):
        ArrayCache(tmp_path, 1000, "ask for less").get(B, numbers)
    assert keys(tmp_path) == {A}


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    opened(tmp_path, 1).get(A, numbers)
    assert keys(tmp_path) == {A, "mine"}


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "about", "emptied"])
def test_a_damaged_entry_is_computed_again(damage, tmp_path):
    opened(tmp_path).get(A, numbers)
    data, about = tmp_path / A / "numbers", tmp_path / A / array_cache.ABOUT
    whole = data.read_bytes()
    if damage == "about":
        about.write_text(about.read_text()[:-5])
    elif damage == "gone":
        data.unlink()
    elif damage == "emptied":
        about.write_text("[]")
    else:
        data.write_bytes({"flipped": whole[:9] + bytes([whole[9] ^ 1]) + whole[10:], "short": whole[:-8]}[damage])
    calls = []
    again = opened(tmp_path).get(A, lambda draft: (calls.append(1), numbers(draft)))
    assert calls == [1] and np.array_equal(again["numbers"], np.arange(SIZE // 8))


def test_the_next_writer_removes_what_a_killed_process_left(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from secateur.training.array_cache import ArrayCache, ArrayType;"
        "kill = lambda draft: (draft.arrays({'x': ArrayType((9,), 'int64')}), os.kill(os.getpid(), signal.SIGKILL));"
        f"ArrayCache(Path({str(tmp_path)!r}), 1e6, '').get({A!r}, kill)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0
    assert keys(tmp_path) == {array_cache.PARTIAL}
    opened(tmp_path).get(B, numbers)
    assert keys(tmp_path) == {B}


def test_a_process_waits_while_another_writes_and_then_reads(tmp_path):
    inner = []

    def slow(draft):
        code = (
            "from pathlib import Path; from secateur.training.array_cache import ArrayCache;"
            f"print(len(ArrayCache(Path({str(tmp_path)!r}), 1e6, '').get({A!r}, lambda draft: 1 / 0)['numbers']))"
        )
        inner.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        numbers(draft)

    opened(tmp_path).get(A, slow)
    assert int(inner[0].communicate()[0]) == SIZE // 8


def test_a_full_disk_is_reported_in_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="No space left on device") as refusal:
        opened(tmp_path).get(A, numbers)
    assert "\n" not in str(refusal.value) and keys(tmp_path) == set()


def test_without_posix_fallocate_blocks_are_written(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    opened(tmp_path).get(A, numbers)
    assert np.array_equal(opened(tmp_path).get(A, never)["numbers"], np.arange(SIZE // 8))


def test_a_folder_that_cannot_be_created_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path / "file" / "cache").get(A, numbers)
