"""Memory of this process: that a peak is a peak, can be set back, and that readings are what is held."""

import sys

import pytest
import torch

from secateur.system import process_memory

LINUX = pytest.mark.skipif(not process_memory.measurable(), reason="only Linux tells the peak of a process")
BLOCK = 64 * 2**20


@LINUX
def test_a_peak_outlives_what_made_it_until_it_is_set_back():
    assert process_memory.forget_peak()
    before = process_memory.peaks()["resident"]
    torch.ones(BLOCK, dtype=torch.uint8)
    assert process_memory.peaks()["resident"] - before > 0.9 * BLOCK
    assert process_memory.held(process_memory.NOW) - before < 0.5 * BLOCK
    process_memory.forget_peak()
    assert process_memory.peaks()["resident"] - before < 0.5 * BLOCK


@LINUX
def test_a_mapped_file_is_resident_and_not_anonymous(tmp_path):
    (tmp_path / "file").write_bytes(bytes(BLOCK))
    before = process_memory.readings()
    mapped = torch.from_file(str(tmp_path / "file"), shared=True, size=BLOCK, dtype=torch.uint8)
    assert int(mapped.sum()) == 0
    grown = {name: 1e6 * (value - before[name]) for name, value in process_memory.readings().items()}
    assert grown["resident_mb"] > 0.9 * BLOCK > 0.5 * BLOCK > grown["anonymous_mb"]


@LINUX
def test_free_pages_go_back_to_the_system():
    kept, pieces = [], []
    for _ in range(4096):  # free space between what stays: no end of the heap to cut off
        pieces.append(torch.ones(16384, dtype=torch.uint8))
        kept.append(torch.ones(64, dtype=torch.uint8))
    del pieces
    before = process_memory.held(process_memory.ANONYMOUS)
    process_memory.give_back()
    assert before - process_memory.held(process_memory.ANONYMOUS) > 0.4 * BLOCK
    assert all(piece.all() for piece in kept)


def _faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@LINUX
@pytest.mark.skipif(process_memory._of_c("mallopt") is None, reason="not glibc")
def test_pages_of_freed_tensors_are_used_again_and_given_back_at_the_end():
    def used() -> int:
        before = _faults()
        for _ in range(8):
            [torch.ones(4 * 2**20, dtype=torch.uint8) for _ in range(16)]
        return _faults() - before

    pages = BLOCK // 4096
    with process_memory.pages_kept():
        used()
        assert used() < pages / 8
        held = process_memory.held(process_memory.ANONYMOUS)
    assert held - process_memory.held(process_memory.ANONYMOUS) > 0.5 * BLOCK


def test_where_a_peak_cannot_be_set_back_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "CLEAR", tmp_path / "absent" / "clear_refs")
    assert not process_memory.forget_peak() and "from the start of the process" in process_memory.counted()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no ru_maxrss")
def test_without_a_status_the_peak_is_that_of_all_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "absent")
    assert process_memory.readings() == {}
    assert process_memory.peaks()["resident"] > 0.9 * BLOCK
