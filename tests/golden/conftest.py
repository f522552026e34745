"""The tiny model and the padded batch of the golden tests in the specifications."""

from collections.abc import Callable

import pytest
import torch
from golden_bert import build_bert
from torch import Tensor


@pytest.fixture
def bert() -> Callable:
    """`build_bert`."""
    return build_bert


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """5 x 11 tokens, rows 1 and 3 padded."""
    noise = torch.Generator().manual_seed(7)
    real = torch.ones(5, 11, dtype=torch.long)
    real[1, 6:] = 0
    real[3, 3:] = 0
    ids = torch.randint(1, 50, (5, 11), generator=noise) * real
    return {"input_ids": ids, "attention_mask": real, "labels": torch.tensor([0, 1, 2, 1, 0])}


@pytest.fixture(scope="session")
def rows():
    """32 examples of 11 tokens, every third padded."""
    noise = torch.Generator().manual_seed(11)
    rows = []
    for index in range(32):
        real = (torch.arange(11) < (5 if index % 3 == 0 else 11)).long()
        ids = torch.randint(1, 50, (11,), generator=noise) * real
        rows.append({"input_ids": ids, "attention_mask": real, "labels": index % 3})
    return rows
