"""Pruning methods, one file for each paper, and the parts that they share.

A method of the package is a new file here with `@register("name")`; one of another package uses
`@secateur.methods.register("name")` or an entry point of the group `secateur.methods`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.methods.method import Method

METHODS: Registry[type[Method]] = Registry("method", group="secateur.methods", built_in=__name__)
register = METHODS.register
