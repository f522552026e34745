"""Checks of a `PruningTrainer` before it trains; each raises a `UserError`, or says what it has changed."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from secateur.methods.method import Method
from secateur.methods.options import number
from secateur.system import devices
from secateur.system.casting import cast
from secateur.system.errors import UserError
from secateur.system.sharding import Sharding
from secateur.training.objectives import Labels
from secateur.training.step import Term

log = logging.getLogger(__name__)

HALF = (torch.float16, torch.bfloat16)


def in_float32(model: Any, role: str) -> Any:
    """A model, cast to float32 in place if it has weights of 16 bits, which is said; anything else as it is.

    `from_pretrained` gives a model the type of its checkpoint. Updates of a training get lost in the rounding of 16
    bits, and the projections of hidden states, which are float32, could not be multiplied with its outputs.
    """
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    found = next((weight.dtype for weight in weights if weight.dtype in HALF), None)
    if found is not None:
        name = str(found).removeprefix("torch.")
        log.warning("the %s has weights in %s: they are cast to float32, in which a training computes", role, name)
        cast(model, torch.float32)
    return model


def terms_of(objective: Term | Iterable[Term] | None) -> list[Term]:
    """The terms of an objective, which may be one term alone; by default the task's own loss.

    Raises:
        UserError: it holds something else than terms.
    """
    given: list[object] = [*(objective or [Labels()])] if isinstance(objective, Iterable | None) else [objective]
    if others := [one for one in given if not isinstance(one, Term)]:
        raise UserError(
            f"objective has {reprlib.repr(others[0])} among its terms: give a list of terms, such as "
            "[Logits(), Hidden()]"
        )
    return [one for one in given if isinstance(one, Term)]


def check_objective(terms: Sequence[Term], model: nn.Module, teacher: Any) -> None:
    """Refuse terms of one name, terms without the teacher that they need, and a teacher that is trained itself."""
    names = [term.name for term in terms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"several terms of the objective have the name {twice[0]!r}, by which terms are told apart: make them one "
            "term, or give each a name of its own (term.name)"
        )
    untaught = [term.name for term in terms if term.needs_teacher and teacher is None]
    if untaught:
        raise UserError(f"the terms {', '.join(untaught)} need a teacher and none is given: pass teacher=")
    weights = teacher.parameters() if isinstance(teacher, nn.Module) else ()
    if not {id(weight) for weight in model.parameters()}.isdisjoint(map(id, weights)):
        raise UserError(
            "the teacher shares weights with the model, which are frozen as the teacher's: pass a copy as teacher, "
            "copy.deepcopy(model)"
        )


def check_computed(computed: bool, trainer: type) -> None:
    """Refuse an optimizer step whose loss has neither the terms nor the method's penalty, before it changes weights."""
    if not computed:
        raise UserError(
            f"compute_loss of {trainer.__name__} does not call that of PruningTrainer, so that neither the terms of "
            "the objective nor the method take part in the training: call super().compute_loss in it, or write the "
            "loss as a Term and pass objective"
        )


def check_devices(args: TrainingArguments, sharded: bool) -> None:
    """Refuse a process that has several copies of the model, or parts of it that others have made, and a Mac's GPU.

    Args:
        sharded: whether accelerate itself, or DeepSpeed, splits the model.
    """
    if sharded:
        raise UserError(
            "an accelerator that splits models (FSDP, DeepSpeed) exists already, and masks and cuts need to split the "
            "model themselves: train with DDP or FSDP, and make no Accelerator before the trainer"
        )
    if not devices.counts_in_float64(args.device):
        raise UserError(
            f"the device {args.device} has no float64, in which masks are counted: pass "
            "TrainingArguments(use_cpu=True), which trains on the CPU"
        )
    if args.n_gpu > 1:
        raise UserError(
            f"one process sees {args.n_gpu} GPUs: start one for each (torchrun --nproc_per_node {args.n_gpu}), or show "
            "it one (CUDA_VISIBLE_DEVICES)"
        )


def check_sharding(sharding: Sharding | None, refit: bool, generates: bool) -> None:
    """Refuse what needs the whole model in each process while it is split among them."""
    used = "refit" if refit else "generate" if generates else None
    if sharding is not None and used:
        raise UserError(
            f"{used} needs the whole model in each process, and FSDP gives each a part: leave it out, or train with DDP"
        )


def check_method(method: Method | None, model: nn.Module, args: TrainingArguments) -> None:
    """Refuse a method of another model's units, one whose last density leaves nothing, and fp16 under a method.

    With fp16 its gradients would be of a scaled loss. A published procedure (`faithful`) may leave less than it is
    asked for; only its plan is refused if that is nothing.
    """
    if method is None:
        return
    if method.space.model is not model:
        raise UserError(
            "the method chooses units of another model than the one that is trained: make its space from that model, "
            "Space(model, ...)"
        )
    if not method.steps and not method.faithful:
        method.space.check_something_fits(method.share_schedule.stop)
    if args.fp16:
        raise UserError("fp16 scales the loss that the method observes: use bf16 or fp32 for pruning")


def check_average(part: float, chosen: bool) -> None:
    """Refuse weight averaging over no part of the steps, or where something else decides which weights result.

    Args:
        part: the last part of the steps that is averaged.
        chosen: whether a method prunes, or the best evaluation is selected.
    """
    if number("average", part, least=0.0, most=1.0) and chosen:
        raise UserError("averaged weights cannot be combined with a method or with select: set average to 0")


def check_order(args: TrainingArguments, rows_seen: int) -> None:
    """Refuse to continue an order of rows that another training cannot repeat."""
    if rows_seen and args.train_sampling_strategy != "group_by_length":
        raise UserError("rows_seen continues an order by length: set train_sampling_strategy='group_by_length'")
