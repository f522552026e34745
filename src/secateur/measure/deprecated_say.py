"""Progress as version 0.1.0 reported it: `say`, a function that is called with each line. The library now logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from secateur.system.deprecation import deprecated

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
LOGGER = "secateur.measure"


class CallingHandler(logging.Handler):
    """A handler that calls a function with the message of each record."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        super().__init__(logging.INFO)
        self.function = function

    def emit(self, record: logging.LogRecord) -> None:
        self.function(record.getMessage())


def accepts_say(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Accept the keyword `say` of version 0.1.0 besides the function's own, with a `DeprecationWarning`."""

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if "say" not in kwargs:
            return function(*args, **kwargs)
        deprecated(f"{function.__name__}(say=...)", f"add a handler to the logger {LOGGER!r}", how="is deprecated:")
        with _logging_to(kwargs.pop("say")):
            return function(*args, **kwargs)

    return call


@contextmanager
def _logging_to(function: Any) -> Iterator[None]:
    """Inside, `function` is called with the progress of this package, at level INFO."""
    logger, handler = logging.getLogger(LOGGER), CallingHandler(function)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
