"""Memory of this process: peaks and their reset, readings for the log, and the free pages of the allocator."""

import gc
import sys
import weakref

import pytest
import torch

from secateur.system import process_memory

LINUX = pytest.mark.skipif(not process_memory.measurable(), reason="only Linux reports the peak of a process")
BLOCK = 64 * 2**20


@LINUX
def test_a_peak_lasts_after_its_memory_is_freed_until_it_is_reset():
    assert process_memory.reset_peak()
    before = process_memory.peaks()["resident"]
    torch.ones(BLOCK, dtype=torch.uint8)
    assert process_memory.peaks()["resident"] - before > 0.9 * BLOCK
    assert process_memory.held(process_memory.NOW) - before < 0.5 * BLOCK
    process_memory.reset_peak()
    assert process_memory.peaks()["resident"] - before < 0.5 * BLOCK


@LINUX
def test_a_mapped_file_is_resident_and_not_anonymous(tmp_path):
    (tmp_path / "file").write_bytes(bytes(BLOCK))
    before = process_memory.readings()
    mapped = torch.from_file(str(tmp_path / "file"), shared=True, size=BLOCK, dtype=torch.uint8)
    assert int(mapped.sum()) == 0
    grown = {name: 1e6 * (value - before[name]) for name, value in process_memory.readings().items()}
    assert grown["resident_mb"] > 0.9 * BLOCK > 0.5 * BLOCK > grown["anonymous_mb"]


def with_holes():
    """Small pieces in use; the freed pieces between them cannot be returned by cutting the heap at its end."""
    kept, pieces = [], []
    for _ in range(4096):
        pieces.append(torch.ones(16384, dtype=torch.uint8))
        kept.append(torch.ones(64, dtype=torch.uint8))
    return kept


@LINUX
def test_free_pages_are_returned_to_the_system():
    kept = with_holes()
    before = process_memory.held(process_memory.ANONYMOUS)
    process_memory.release_free_pages()
    assert before - process_memory.held(process_memory.ANONYMOUS) > 0.4 * BLOCK
    assert all(piece.all() for piece in kept)


@LINUX
def test_free_pages_are_returned_within_a_training_once_they_are_many(monkeypatch):
    process_memory.release_free_pages()
    free = process_memory.FreePages()
    kept = with_holes()
    before = process_memory.held(process_memory.ANONYMOUS)
    free.check()
    assert before - process_memory.held(process_memory.ANONYMOUS) < 0.1 * BLOCK
    monkeypatch.setattr(process_memory, "MOST_FREE", BLOCK // 2)
    free.check()
    assert before - process_memory.held(process_memory.ANONYMOUS) > 0.4 * BLOCK
    assert all(piece.all() for piece in kept)


class Cycle:
    def __init__(self):
        self.itself = self


def test_objects_in_cycles_are_gone_after_a_release():
    gone = weakref.ref(Cycle())
    gc.disable()
    try:
        process_memory.release()
    finally:
        gc.enable()
    assert gone() is None


@LINUX
def test_compiled_code_is_removed_where_the_process_has_grown(monkeypatch):
    evicted = []
    monkeypatch.setattr(process_memory.compiled_code, "evict", lambda: evicted.append(True))
    monkeypatch.setattr(process_memory, "LOWEST", {})
    monkeypatch.setattr(process_memory, "MOST_CODE", BLOCK // 2)
    process_memory.release_heap()
    process_memory.release_heap()
    assert not evicted
    grown = torch.ones(BLOCK, dtype=torch.uint8)
    process_memory.release_heap()
    process_memory.release_heap()
    assert evicted == [True] and grown.all()
    del grown
    process_memory.release_heap()
    less = [torch.ones(BLOCK // 4, dtype=torch.uint8)]
    process_memory.release_heap()
    less += [torch.ones(BLOCK // 2, dtype=torch.uint8)]  # less than before in all, but code may be among it
    process_memory.release_heap()
    assert len(evicted) == 2


def _faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@LINUX
@pytest.mark.skipif(process_memory._c_function("mallopt") is None, reason="not glibc")
def test_pages_of_freed_tensors_are_reused_within_the_block_and_returned_after_it():
    def used() -> int:
        before = _faults()
        for _ in range(8):
            [torch.ones(4 * 2**20, dtype=torch.uint8) for _ in range(16)]
        return _faults() - before

    pages = BLOCK // 4096
    with process_memory.keep_free_pages():
        used()
        assert used() < pages / 8
        held = process_memory.held(process_memory.ANONYMOUS)
    assert held - process_memory.held(process_memory.ANONYMOUS) > 0.5 * BLOCK


def test_the_description_says_when_peaks_cannot_be_reset(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "CLEAR", tmp_path / "absent" / "clear_refs")
    assert not process_memory.reset_peak() and "from the start of the process" in process_memory.description_of_peaks()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no ru_maxrss")
def test_without_a_status_file_the_peak_is_that_since_the_start_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "absent")
    assert process_memory.readings() == {}
    assert process_memory.peaks()["resident"] > 0.9 * BLOCK
