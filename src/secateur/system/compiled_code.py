"""The code that oneDNN has compiled for shapes of matrices, and that it keeps: how it is removed.

oneDNN keeps what it has compiled for the last few thousand shapes, for as long as the process lives: 0.1 to 0.6 MB
each, 1.2 GB after the pruning of a model of base size. PyTorch has no function that empties this cache. It is least
recently used entries that make room for new ones, so that as many entries of the smallest kind replace all others.
"""

from __future__ import annotations

import os

import torch

CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""The environment variable that sets the number of entries, which oneDNN reads when it is first used."""


def evict() -> None:
    """Replace all entries by conversions of vectors of different lengths, which take 10 kB each."""
    if torch.backends.mkldnn.is_available():
        for length in range(1, int(os.environ.get(CAPACITY, 0)) + 1):
            torch.empty(length).to_mkldnn()
