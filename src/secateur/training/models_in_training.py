"""The state of student and teacher while a student is trained, and what they are given back as."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, TrainerCallback

from secateur.surgery.compact.kernels import reliable_kernels
from secateur.system.model_copies import twin
from secateur.system.model_state import frozen
from secateur.system.sharding import ShardedModel, Sharding
from secateur.training.best import BestEvaluation
from secateur.training.loss import TermLoss
from secateur.training.shrink_policy import ShrinkPolicy


@contextmanager
def restored_models(
    loss: TermLoss, device: torch.device, shrinking: ShrinkPolicy | None, sharding: Sharding | None
) -> Iterator[None]:
    """Within the block the teacher is frozen, on the device; afterwards, also if interrupted, both models are restored.

    Args:
        loss: whose teacher is split within the block, if the student is; its own weights stay whole, where they are.
        shrinking: what may have cut the student.
    """
    teacher = loss.teacher
    with ExitStack() as stack:
        if shrinking is not None:
            if sharding is not None:
                shrinking.shrinking.skeleton()  # of a model in parts none could be made
            stack.callback(shrinking.abandon)
        if isinstance(teacher, PreTrainedModel):
            module: nn.Module = teacher
            stack.enter_context(frozen(module.to(device) if sharding is None else module))
            if sharding is not None:
                stack.callback(setattr, loss, "teacher", teacher)
                loss.teacher = ShardedModel(twin(teacher), sharding, trained=False)
        yield


def fast_attention(device: torch.device) -> AbstractContextManager[Any]:
    """The kernels of attention that training uses on a device.

    Unfused on CPUs, where the backward pass of PyTorch's fused attention is slow (RESULTS.md).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else reliable_kernels(device)


class Steps(Protocol):
    """What happens around an optimizer step.

    Attributes:
        best: notes the best evaluation, if one is to be chosen.
    """

    best: BestEvaluation | None

    def before_step(self) -> None: ...

    def step_taken(self) -> None: ...


class StepCallback(TrainerCallback):
    """Calls a trainer before and after every optimizer step.

    A training that chooses the best evaluation ends with one, so that the last weights are compared, too.
    """

    def __init__(self, trainer: Steps) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_taken()
        if self.trainer.best is not None and args.eval_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_evaluate = True  # by epochs, the last one is evaluated anyway
