"""The device on which models are trained and scored."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import nn

log = logging.getLogger(__name__)


def accelerator() -> torch.device | None:
    """The accelerator of this machine; None without one, and for one without float64, which is said once.

    Masks are counted in float64. A Mac's (`mps`) has none, so that models are trained and scored on the CPU.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and _is_used(found.type) else None


def accelerator_for(model: nn.Module) -> torch.device | None:
    """The accelerator on which a model is scored; None also for one that says that it is `run_on_cpu`."""
    return None if getattr(model, "run_on_cpu", False) else accelerator()


def is_here(name: str) -> bool:
    """Whether this machine has a device: the CPU, or an accelerator of that type and number."""
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    if device.type == "cpu":
        return True
    own = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return own is not None and own.type == device.type and (device.index or 0) < torch.accelerator.device_count()


def counts_in_float64(device: torch.device) -> bool:
    """Whether a device has float64; of CPUs and GPUs with CUDA, which have it, nothing is asked."""
    return device.type in ("cpu", "cuda") or _makes_float64(device.type)


@cache
def _is_used(kind: str) -> bool:
    if counts_in_float64(torch.device(kind)):
        return True
    log.info("the accelerator %s has no float64, in which masks are counted: the CPU is used", kind)
    return False


def _makes_float64(kind: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError, NotImplementedError, AssertionError):  # what backends raise differs
        return False
    return True
