"""Several processes of one run, as `torchrun` and `accelerate launch` start them: who writes, who waits, who speaks.

All train. What is done once is done by the main process, rank 0, and the others wait for it however long it takes: in a
group of their own, on which no timeout of training counts. Every process comes to each of these calls, in one order.

torch and accelerate are imported where they are used: the command line asks who speaks before it needs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from secateur.system.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long the others wait for the main process; a launcher ends them if it dies."""
GRACE = 60.0
"""Seconds that the others leave the main process to say what is wrong."""
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def count() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return count() == 1 or os.environ.get("RANK") == "0"


def on_main(work: Callable[[], T]) -> T:
    """What `work` gives in the main process, which alone does it; all leave together.

    Raises:
        UserError: that of the main process, in all of them.
    """
    if count() == 1:
        return work()
    from torch import distributed

    told: list[Any] = [None, None]
    if is_main():
        try:
            told[0] = work()
        except UserError as error:
            told[1] = error
    distributed.broadcast_object_list(told, src=0, group=_group())
    distributed.barrier(group=_group())
    if told[1] is not None:
        raise told[1]
    return told[0]


def main_first(work: Callable[[], T]) -> T:
    """What `work` gives in each process: first in the main one, whose files the others then find."""
    done: list[T] = []
    on_main(lambda: done.append(work()))
    return done[0] if done else work()


def let_main_speak() -> None:
    """Called before a process ends for an error: what is wrong here is as a rule wrong everywhere, and told once.

    The launcher ends all processes when one has failed, so that another one than the main is alive after this only
    where it alone has something to tell.
    """
    if not is_main():
        time.sleep(GRACE)


def refuse_sharding() -> None:
    """Refuse a launcher that would give each process a part of the model.

    Raises:
        UserError: naming what was asked for.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise UserError(
                f"{name} leaves a part of the model in each process, and masks, scores and cuts need it whole: start "
                "with torchrun, or with accelerate launch --multi_gpu, which average gradients of whole models (DDP)"
            )


@cache
def _group() -> Any:
    """Where the others wait: over gloo, whatever training talks over."""
    import torch
    from accelerate import PartialState
    from torch import distributed

    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)  # Trainer goes on with what is there
    return distributed.new_group(backend="gloo", timeout=PATIENCE)
