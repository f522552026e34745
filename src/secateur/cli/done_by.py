"""Commands are declared apart from what they do, so that help and mistakes in options need nothing that is heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any


def done_by(module: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: what a declared command does is the function of its name in a module of `secateur.cli`.

    The module is imported when the command runs, and its function takes all options by name.
    """

    def decorate(declared: Callable[..., None]) -> Callable[..., None]:
        @wraps(declared)
        def work(**values: Any) -> None:
            getattr(import_module(f"secateur.cli.{module}"), declared.__name__)(**values)

        return work

    return decorate
