"""Pruning methods, one file a paper. A new method is a new file here with `@register("name")`; nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.methods.method import Method

METHODS: Registry[type[Method]] = Registry("method", group="secateur.methods", built_in=__name__)
register = METHODS.register
