"""Models of which, while they are trained in parts, only the main process holds the weights in the host's memory.

The others have them on `meta`: the same class, config, shapes and ties, with the same buffers. They get their parts
when the model is split (`sharding`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from secateur.system import processes
from secateur.system.model_copies import blank_copy

M = TypeVar("M", bound=PreTrainedModel)


def held_by_main(load: Callable[[], M]) -> M:
    """A model; in parts, only the main process loads it, and the others get its copy without weights.

    Afterwards all processes draw the same random numbers, as if each had loaded it. All of them must call this.

    Raises:
        UserError: raised by `load`; every process raises it.
    """
    if not processes.in_parts():
        return load()
    own: list[M] = []

    def work() -> tuple[M, torch.Tensor]:
        own.append(load())
        return blank_copy(own[0]), torch.get_rng_state()

    blank, state = processes.on_main(work)
    if own:
        return own[0]
    _construct_one_like(blank)
    torch.set_rng_state(state)
    return blank


def _construct_one_like(model: PreTrainedModel) -> None:
    """Construct a model of the same classes: transformers notes then which outputs they can return, for all of them."""
    with torch.device("meta"):
        type(model)(copy.deepcopy(model.config))
