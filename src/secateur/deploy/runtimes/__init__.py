"""Runtimes, one file each. A new runtime is a new file here with `@register("name")`; nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.deploy.runtime import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry("runtime", group="secateur.runtimes", built_in=__name__)
register = RUNTIMES.register
