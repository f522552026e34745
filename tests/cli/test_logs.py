"""What is logged and warned of: on stderr, a line each, a warning once, and nothing of it on stdout."""

import json
import logging
import subprocess
import sys
import warnings

import pytest
from small_world import write_model

from secateur.cli import logs


@pytest.fixture
def console(monkeypatch):
    """A console handler of its own on a logger that reaches no other; the loggers are as before afterwards."""
    lines = []
    monkeypatch.setattr(logs, "show_message", lines.append)
    handler = logs.ConsoleHandler()
    loggers = [logging.getLogger(name) for name in ("secateur", "py.warnings", "transformers.some.module")]
    kept = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    with warnings.catch_warnings():
        yield lines
    logging.captureWarnings(False)
    for logger, (level, propagate) in zip(loggers, kept, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def test_progress_is_shown_as_it_is_and_other_libraries_are_named(console):
    logging.getLogger("secateur.measure").info("measuring %d rows", 3)
    logging.getLogger("transformers.some.module").warning("two\n  lines")
    assert console == ["measuring 3 rows", "transformers: two lines"]


def test_progress_is_repeated_and_a_warning_is_not(console):
    for _ in range(2):
        logging.getLogger("secateur").info("again")
        logging.getLogger("secateur").warning("careful")
    assert console == ["again", "careful", "again"]


def test_a_warning_is_one_line_with_its_library_and_category_once(console):
    logs.show_warnings()
    for _ in range(2):
        for line in (3, 4):
            warnings.warn_explicit("odd\nthing", UserWarning, "/x/site-packages/someone/part.py", line)
    warnings.simplefilter("ignore", DeprecationWarning)  # as Python has it, where pytest makes it an error
    warnings.warn_explicit("for developers", DeprecationWarning, "/x/site-packages/someone/part.py", 3)
    assert console == ["someone: UserWarning: odd thing"]


def test_other_processes_than_the_main_one_show_nothing(console, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    logging.getLogger("secateur").warning("careful")
    assert console == []


@pytest.mark.parametrize(
    ("file", "library"),
    [
        ("/x/lib/site-packages/torch/nn/modules.py", "torch"),
        ("/x/lib/site-packages/six.py", "six"),
        ("/home/me/src/secateur/run/recipe.py", "secateur"),
        ("/home/me/mine.py", "mine"),
    ],
)
def test_the_library_of_a_file(file, library):
    assert logs._library(file) == library


def test_stdout_is_json_whatever_libraries_warn_of(tmp_path):
    """In a process of its own: an extension warns and logs while it is imported, twice."""
    write_model(tmp_path / "model")
    (tmp_path / "noisy.py").write_text(
        "import logging, warnings\n"
        "for _ in range(2):\n"
        "    warnings.warn('careful')\n"
        "    logging.getLogger('transformers.noisy').warning('take care')\n"
        "logging.getLogger('secateur.noisy').info('working')\n"
    )
    words = ("--import", tmp_path / "noisy.py", "inspect", tmp_path / "model", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "secateur", *map(str, words)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["compact"] is False
    assert done.stderr.splitlines() == ["noisy: UserWarning: careful", "transformers: take care", "working"]
