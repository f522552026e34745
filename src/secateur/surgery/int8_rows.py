"""The rounding of a table to int8: each row has a scale, the 127th part of its largest absolute value.

The scale is rounded to 16 significant bits. A product with an int8 then has 23, so that it is exact in fp32: every way
to compute it gives the same number, and a table that is quantised again is the same table, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.surgery.compact import QuantisedEmbedding
from secateur.system.errors import UserError

LARGEST = 127
BITS = 16
SMALLEST = 2.0**-126
"""The smallest scale: a row with smaller values becomes zeros."""


def quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(rows, size)` of int8 and a scale for each, `(rows,)` of fp32; a row of zeros has the scale 1.

    A value is off by at most 0.4% of its row's largest absolute value: half a step of 1/127.

    Raises:
        UserError: a value is not finite.
    """
    exact = values.detach().double()
    if not bool(exact.isfinite().all()):
        raise UserError("word embeddings with values that are not finite cannot be stored in int8: check the training")
    mantissa, exponent = torch.frexp(exact.abs().amax(dim=1) / LARGEST)
    scale = torch.ldexp((mantissa * 2**BITS).round() / 2**BITS, exponent)
    scale = torch.where(scale < SMALLEST, 1.0, scale)
    rows = (exact / scale[:, None]).round().clamp(-LARGEST, LARGEST)
    return rows.to(torch.int8), scale.float()


def rounded(values: Tensor) -> Tensor:
    """The table after quantisation, in its own type."""
    rows, scale = quantised(values)
    return (rows.float() * scale[:, None]).to(values.dtype)


@torch.no_grad()
def fill(embedding: QuantisedEmbedding, values: Tensor) -> None:
    """Quantise a table `(rows, size)` into an embedding of that shape."""
    rows, scale = quantised(values)
    embedding.rows.copy_(rows)
    embedding.scale.copy_(scale)
