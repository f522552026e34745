"""Baselines, one file a kind: what a user would otherwise take than the pruned model, on the same data and metric.

A new kind is a new file here with `@register("name")`, or an entry point of the group `secateur.baselines`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.run.baselines.baseline import Baseline

BASELINES: Registry[type[Baseline]] = Registry("baseline", group="secateur.baselines", built_in=__name__)
register = BASELINES.register


def trained(names: Iterable[str]) -> int:
    """How many of these baselines are trained, for as many steps as the run."""
    return sum(BASELINES.get(name).trains for name in names)
