"""How fast the exported files of one model are on this machine, beside each other or beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.deploy.export import opened
from secateur.deploy.formats import read_facts
from secateur.deploy.graph import inference_copy
from secateur.measure.random_inputs import as_tensors, random_inputs
from secateur.measure.timing import median_and_quartiles, times_in_turn
from secateur.structure.positions import positions

SHAPES = ((1, 32), (8, 128))
REPEATS, WARMUP = 10, 2


TEXTS, BEAMS = 5, (1, 5)
"""Texts that each model writes with each number of beams."""
SOURCE = 32
"""Tokens of a source, and of the text that is written of it."""


def generation_times(
    model: PreTrainedModel, exported: Mapping[tuple[str, str], PreTrainedModel], repeats: int = TEXTS
) -> list[dict[str, Any]]:
    """The median milliseconds in which an encoder-decoder and its exports write a text of `SOURCE` tokens, in turn.

    Args:
        model: in PyTorch.
        exported: (runtime, dtype) -> the model in it.
        repeats: texts of each.

    Returns:
        For each number of beams, the model and then each export: `runtime`, `dtype`, `batch` (1), `tokens`, `beams`,
        `latency_ms`, and `speed_up` over the model in PyTorch.
    """
    names = [("pytorch", "fp32"), *exported]
    models: list[Any] = [inference_copy(model, "fp32").cpu(), *exported.values()]
    limit = positions(model)
    tokens = SOURCE if limit is None else min(SOURCE, limit - 1)  # the start token takes a position
    inputs = as_tensors(random_inputs(model.config.vocab_size, 1, tokens))
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
    found = []
    for beams in BEAMS:
        calls = [partial(one.generate, **inputs, **length, num_beams=beams) for one in models]
        medians = [median_and_quartiles(own)[0] for own in times_in_turn(calls, repeats, warmup=1)]
        for (runtime, dtype), median in zip(names, medians, strict=True):
            own = {"latency_ms": median, "speed_up": medians[0] / median}
            found.append({"runtime": runtime, "dtype": dtype, "batch": 1, "tokens": tokens, "beams": beams, **own})
    return found


def latencies(files: Sequence[Path], longest: int, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """The median milliseconds of a forward of each file at each of `SHAPES`, taken in turn, on equal tokens or images.

    Args:
        files: of one model.
        longest: most tokens that the model takes, or those that it makes of an image.
        repeats: forwards of each file.

    Returns:
        For each shape and file: `batch`, `tokens`, `dtype`, `latency_ms`, and `speed_up` over the first file.
    """
    runners, found, facts = [opened(file) for file in files], [], read_facts(files[0])
    for batch, most in SHAPES:
        tokens = longest if facts.image else min(most, longest)
        inputs = facts.example(batch, tokens)
        times = times_in_turn([partial(runner, inputs) for runner in runners], repeats, WARMUP)
        medians = [median_and_quartiles(own)[0] for own in times]
        for runner, median in zip(runners, medians, strict=True):
            own = {"dtype": runner.dtype, "latency_ms": median, "speed_up": medians[0] / median}
            found.append({"batch": batch, "tokens": tokens, **own})
    return found
