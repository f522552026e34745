"""Architectures, one file a family, data only, in the words of `secateur.structure.architecture`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.structure.architecture import Architecture

ARCHITECTURES: Registry[Architecture] = Registry("architecture", group="secateur.architectures", built_in=__name__)


def register(architecture: Architecture) -> Architecture:
    """Make a family known by its `model_type`.

    Raises:
        UserError: another table of the same `model_type` is registered.
    """
    return ARCHITECTURES.register(architecture.model_type)(architecture)
