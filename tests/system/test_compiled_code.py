"""The code that oneDNN keeps for shapes that are not used any more is removed."""

import pytest
import torch

from secateur.system import compat, compiled_code, process_memory

SHAPES = 150


@pytest.mark.skipif(not process_memory.measurable(), reason="only Linux reports anonymous memory")
@pytest.mark.skipif(not compat.cpu_computes_bf16(), reason="oneDNN does not multiply matrices of this CPU")
def test_the_memory_of_evicted_code_is_free():
    def used():
        process_memory.release_free_pages()
        return process_memory.held(process_memory.ANONYMOUS)

    compiled_code.evict()
    before = used()
    for rows in range(SHAPES):
        torch.empty(400 + rows, 256, dtype=torch.bfloat16) @ torch.empty(256, 100, dtype=torch.bfloat16)
    compiled = used() - before
    compiled_code.evict()
    assert compiled > 150_000 * SHAPES and used() - before < compiled / 2
