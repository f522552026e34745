"""The supported families of models: one file each, which is data in the words of `secateur.structure.architecture`.

A family outside this package is added by `register`, or by an entry point in the group `secateur.architectures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.structure.architecture import Architecture

ARCHITECTURES: Registry[Architecture] = Registry("architecture", group="secateur.architectures", built_in=__name__)


def register(architecture: Architecture) -> Architecture:
    """Make a family known by its `model_type`; the architecture is returned unchanged.

    Raises:
        UserError: another architecture is registered for the same `model_type`.

    Examples:
        >>> DATA2VEC = secateur.architectures.register(replace(ROBERTA, model_type="data2vec-text"))
    """
    return ARCHITECTURES.register(architecture.model_type)(architecture)
