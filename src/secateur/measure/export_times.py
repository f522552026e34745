"""How fast the exported files of one model are beside each other on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from secateur.deploy.export import opened
from secateur.measure.timing import median_and_quartiles, times_in_turn

SHAPES = ((1, 32), (8, 128))
REPEATS, WARMUP = 10, 2


def latencies(files: Sequence[Path], longest: int, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """The median milliseconds of a forward of each file at each of `SHAPES`, taken in turn, on tokens that are all 1.

    Args:
        files: of one model.
        longest: most tokens that the model takes.
        repeats: forwards of each file.

    Returns:
        For each shape and file: `batch`, `tokens`, `dtype`, `latency_ms`, and `speed_up` over the first file.
    """
    runners, found = [opened(file) for file in files], []
    for batch, most in SHAPES:
        tokens = min(most, longest)
        inputs = {"input_ids": np.ones((batch, tokens), dtype=np.int64)}
        times = times_in_turn([partial(runner, inputs) for runner in runners], repeats, WARMUP)
        medians = [median_and_quartiles(own)[0] for own in times]
        for runner, median in zip(runners, medians, strict=True):
            own = {"dtype": runner.dtype, "latency_ms": median, "speed_up": medians[0] / median}
            found.append({"batch": batch, "tokens": tokens, **own})
    return found
