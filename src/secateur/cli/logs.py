"""What the library and the libraries below it log, on stderr: a line each, a warning once.

The library logs to the logger `secateur` and configures nothing. Here, its records of level INFO and the warnings of
everything else get the one handler of the command line.
"""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TextIO

from secateur.cli.output import show_message
from secateur.system import processes
from secateur.system.on_import import after_import

SHOWN = (UserWarning, FutureWarning, RuntimeWarning)
"""Categories that tell a user something. Python shows those for developers, such as DeprecationWarning, on request."""


class ConsoleHandler(logging.Handler):
    """Prints records in the main process, each on one line: those of secateur as they are, others with their source."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(Once())

    def emit(self, record: logging.LogRecord) -> None:
        if not processes.is_main():
            return
        line, library = " ".join(record.getMessage().split()), record.name.partition(".")[0]
        show_message(line if library in ("secateur", "py") else f"{library}: {line}")


class Once(logging.Filter):
    """Lets a warning pass once, however often it is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, record.getMessage())
        new = key not in self.passed
        self.passed.add(key)
        return new


def show_logs() -> None:
    """Print what is logged; a second call changes nothing."""
    logging.getLogger("secateur").setLevel(logging.INFO)
    root = logging.getLogger()
    if not any(isinstance(handler, ConsoleHandler) for handler in root.handlers):
        root.addHandler(ConsoleHandler())


def show_warnings() -> None:
    """Log Python's warnings, each once. What `python -W` or PYTHONWARNINGS ask for stays as it is."""
    logging.captureWarnings(True)
    warnings.showwarning = _log_warning
    if not sys.warnoptions:
        for category in SHOWN:
            warnings.simplefilter("once", category)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As `warnings.showwarning`: the library, the category and the message, without the line of code."""
    logging.getLogger("py.warnings").warning("%s: %s: %s", _library(filename), category.__name__, message)


def _library(filename: str) -> str:
    """The package that a file is of; the name of the file outside of packages."""
    parts = Path(filename).parts
    if "site-packages" in parts:
        return parts[len(parts) - parts[::-1].index("site-packages")].removesuffix(".py")
    return "secateur" if "secateur" in parts else Path(filename).stem


def quiet_libraries() -> None:
    """Turn the progress bars of the libraries off, and send their warnings to the handler of the command line.

    A library is set up when it is imported: a command that does not need it does not wait for it.
    """
    after_import("transformers.utils.logging", _quiet_transformers)
    after_import("datasets.utils", _quiet_datasets)
    after_import("huggingface_hub.utils", _quiet_hub)
    after_import("huggingface_hub.utils.logging", partial(_hand_over, "huggingface_hub"))


def _quiet_transformers() -> None:
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_warning()
    of_transformers.disable_progress_bar()
    _hand_over("transformers")


def _quiet_datasets() -> None:
    from datasets import utils

    utils.logging.set_verbosity_warning()
    utils.disable_progress_bars()
    _hand_over("datasets")


def _quiet_hub() -> None:
    from huggingface_hub import utils

    utils.disable_progress_bars()


def _hand_over(library: str) -> None:
    """Let the root logger handle what a library logs; each has a handler of its own."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True
