"""The registered terms of the loss, which a recipe names with their arguments under `distillation.terms`.

@register("mine")
class Mine(Term): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.training.step import Term

TERMS: Registry[type[Term]] = Registry("term", group="secateur.terms", built_in="secateur.training.objectives")
register = TERMS.register
