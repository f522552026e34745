"""Tasks, one file a kind. A new kind is a new file here with `@register("name")`; nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.registry import Registry

if TYPE_CHECKING:
    from secateur.tasks.task import Task

TASKS: Registry[type[Task]] = Registry("task", group="secateur.tasks", built_in=__name__)
register = TASKS.register
