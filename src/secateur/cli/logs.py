"""What the library and the libraries below it log, on stderr."""

from __future__ import annotations

import logging

import datasets
import huggingface_hub.utils
import transformers

from secateur.cli.output import show_message


def quiet() -> None:
    """Let the libraries below log errors alone, and show no progress bars of their own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()


class ConsoleHandler(logging.Handler):
    """Prints records on stderr, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        show_message(self.format(record))


def show_progress() -> None:
    """Print what the library logs; called once a process, however often the command line is."""
    logger = logging.getLogger("secateur")
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
        logger.setLevel(logging.INFO)
