"""Several processes of one run, as `torchrun` and `accelerate launch` start them.

All processes train. Work that is done once, such as writing a file, is done by the main process (rank 0) while the
others wait for it in a process group of its own, because the timeout of the group that trains would be too short. Every
process must make each of these calls, in the same order.

torch and accelerate are imported where they are used, because the command line calls this module before it needs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from secateur.system.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long the others wait for the main process; a launcher ends them if it dies."""
GRACE = 60.0
"""Seconds for which another process that failed waits, so that the main process can report its error first."""
FSDP = "ACCELERATE_USE_FSDP"
"""The variable by which accelerate's launcher asks for FSDP."""
SHARDING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def count() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return count() == 1 or os.environ.get("RANK") == "0"


def on_main(work: Callable[[], T]) -> T:
    """Call `work` in the main process only, and return its result in all processes, which wait for it.

    A call within `work` is one of the main process alone.

    Raises:
        UserError: raised by `work`; every process raises it.
    """
    if count() == 1 or _waited_for:
        return work()
    from torch import distributed

    result_and_error: list[Any] = [None, None]
    if is_main():
        try:
            with _while_others_wait():
                result_and_error[0] = work()
        except UserError as error:
            result_and_error[1] = error
    distributed.broadcast_object_list(result_and_error, src=0, group=_group())
    distributed.barrier(group=_group())
    result, raised = result_and_error
    if raised is not None:
        raise raised
    return result


_waited_for: list[bool] = []
"""Not empty while the others wait for this process."""


@contextmanager
def _while_others_wait() -> Iterator[None]:
    _waited_for.append(True)
    try:
        yield
    finally:
        _waited_for.pop()


def where_whole(work: Callable[[], T]) -> T:
    """Call `work`, which needs the values of whole models, in every process that has them: in parts the main one alone.

    All processes return its result.

    Raises:
        UserError: raised by `work`; every process raises it.
    """
    return on_main(work) if in_parts() else work()


def main_first(work: Callable[[], T]) -> T:
    """Call `work` in the main process first and then in the others, which find the files that it has written."""
    done: list[T] = []
    on_main(lambda: done.append(work()))
    return done[0] if done else work()


def let_main_report() -> None:
    """Wait before this process ends with an error, unless it is the main one.

    Most errors occur in every process, and the main one reports them. The launcher ends all processes as soon as one
    has failed, so another process returns from this call only if the error is its alone.
    """
    if not is_main():
        time.sleep(GRACE)


def is_set(variable: str) -> bool:
    """Whether a variable by which accelerate's launcher asks for something is set."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def in_parts() -> bool:
    """Whether models are trained in parts: by FSDP, in several processes."""
    return count() > 1 and is_set(FSDP)


def refuse_sharding() -> None:
    """Refuse a launcher that would split models in a way that masks and cuts cannot follow.

    Raises:
        UserError: the launcher is set to DeepSpeed or Megatron-LM.
    """
    for variable, name in SHARDING.items():
        if is_set(variable):
            raise UserError(
                f"{name} splits the model among processes in a way that masks and cuts cannot follow: start with "
                "torchrun or accelerate launch --multi_gpu, or, if the model does not fit, with FSDP of version 2"
            )


@cache
def _group() -> Any:
    """The process group in which the others wait; gloo, whatever the backend of training is."""
    from accelerate import PartialState
    from torch import distributed

    from secateur.system import devices

    PartialState(cpu=devices.accelerator() is None, timeout=PATIENCE)  # Trainer uses the state that exists
    return distributed.new_group(backend="gloo", timeout=PATIENCE)
