"""How every test process runs: offline, on one thread, quiet."""

import gc
import os
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pytest
import tiny_models  # noqa: F401  # and with it secateur: before the freeze
import torch
import transformers
from hypothesis import settings
from typer.testing import CliRunner

from secateur.cli import app
from secateur.report import charts, svg
from secateur.run import outlook, teacher_check
from secateur.run.stages import check, teacher

HERE = Path(__file__).parent
LONG = (
    "laws/test_law_04_saved.py",
    "test_docs.py",
    "laws/test_law_11_recover.py",
    "laws/test_law_11_shrink.py",
    "system/test_processes.py",
    "laws/test_law_02_cut.py",
    "cli/test_cli.py",
    "run/test_pipeline.py",
    "run/test_density_sweep.py",
    "deploy/test_export.py",
    "laws/test_law_13_exported.py",
    "laws/test_law_12_processes.py",
    "laws/test_law_08_resume.py",
    "test_examples.py",
    "tasks/test_translation.py",
    "run/test_depth.py",
    "tasks/test_questions.py",
    "test_hard_use.py",
    "test_public_surface.py",
)
"""The modules that take more than half a minute; every name is that of a file."""
PICTURES = ((charts, ("by_head", "by_layer", "bars", "by_time", "over_stages")), (svg, ("svg",)))
DRAWING = [(module, name, getattr(module, name)) for module, names in PICTURES for name in names]

settings.register_profile("untimed", deadline=None)  # a timing is no test: the machine may be busy
settings.load_profile("untimed")
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()


def pytest_collection_modifyitems(items):
    """Let the long modules begin first: of two workers none has nothing to do while the other one is in a long one."""
    order = {HERE / name: number for number, name in enumerate(LONG)}
    assert all(path.is_file() for path in order)
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Let a test draw the same random numbers wherever it runs: alone, or after any others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def random_teachers():
    """Let the random models of the tests be teachers; a test that checks their scores asks for `checked_teachers`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "check_score", lambda context, teacher: None)
        patch.setattr(teacher, "check_trained", lambda context, teacher: None)
        yield


@pytest.fixture
def checked_teachers(monkeypatch):
    """The checks of the scores of teachers, as they are."""
    monkeypatch.setattr(check, "check_score", teacher_check.check_score)
    monkeypatch.setattr(teacher, "check_trained", teacher_check.check_trained)


@pytest.fixture(scope="session", autouse=True)
def untimed_runs():
    """Let the runs of the tests time no steps before they begin: only tests/run/test_step_times.py measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlook, "measured", lambda context, space, table: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """Let the collector of garbage look only at what the module makes: Trainer collects ten times in a tiny run.

    Whatever is older stays: the libraries, what they have imported late, and the tests, a million objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def empty_pictures():
    """Let the pages of runs have empty pictures, because drawing takes a third of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, _ in DRAWING:
            patch.setattr(module, name, lambda *figure, **options: "<svg></svg>")
        yield


@contextmanager
def drawing():
    with pytest.MonkeyPatch.context() as patch:
        for module, name, real in DRAWING:
            patch.setattr(module, name, real)
        yield


@pytest.fixture
def drawn():
    """Pages with real pictures, in a test."""
    with drawing():
        yield


@pytest.fixture(scope="module")
def drawn_pages():
    """Pages with real pictures, in a module."""
    with drawing():
        yield


@pytest.fixture
def secateur():
    """Call the command, which must succeed; gives its stdout."""

    def call(*words):
        result = CliRunner().invoke(app.app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    return call
