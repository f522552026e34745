"""A full disk and a locked place are recognised by what the error itself reports; others are shown as they are."""

import errno
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from secateur.cli import app, errors
from secateur.cli.option_words import in_options
from secateur.system.errors import UserError

RUST = "Error while serializing: I/O error: No space left on device (os error 28)"


def raised(error, cause=None, handled=None):
    """The error as it is when it was raised, from a cause or while another one was handled."""
    try:
        if handled is None:
            raise error from cause
        try:
            raise handled
        except OSError:
            raise error  # noqa: B904 - the context is what is tested
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("one sentence"), "one sentence"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SafetensorError(RUST), "the disk is full"),
        (raised(RuntimeError("write"), OSError(errno.EDQUOT, "Quota")), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data.csv"), "cannot be read or written.*data.csv"),
    ],
)
def test_what_a_user_can_fix_is_a_sentence(error, words):
    assert re.search(words, errors.explained(error))


@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError("a bug"), handled=PermissionError(errno.EACCES, "Permission denied", "/cache")),
        raised(KeyError("a bug"), handled=OSError(errno.ENOSPC, "No space left on device")),
        RuntimeError("No space left on device, says a model"),
        RuntimeError("iostream error"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of no file
    ],
)
def test_a_bug_is_not_taken_for_a_full_disk_or_a_locked_place(error):
    assert errors.explained(error) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
def test_a_write_of_pytorch_that_fails_is_a_full_disk():
    with pytest.raises(Exception) as failed:
        torch.save(torch.zeros(100_000), "/dev/full")
    assert "the disk is full" in errors.explained(failed.value)


def test_an_unexpected_error_is_shown_with_a_file_that_has_its_traceback(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(app, "_prepare", fail)
    result = CliRunner().invoke(app.app, ["list"])
    (file,) = tmp_path.iterdir()
    assert result.exit_code == errors.UNEXPECTED and "Traceback" not in result.stderr
    assert result.stderr.startswith("unexpected error: RuntimeError: a bug\n") and str(file) in result.stderr.replace(
        "\n", ""
    )
    assert "Traceback" in file.read_text() and "in fail" in file.read_text()


def test_without_a_place_for_the_file_the_traceback_itself_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path / "missing"))
    shown = errors.unexpected(raised(RuntimeError("a bug")))
    assert "Traceback" in shown and shown.endswith("unexpected error: RuntimeError: a bug")


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("no label: give one of a, b by `label`", "no label: give one of a, b by --label"),
        ("name both by `text` and `label`, out of a", "name both by --text and --label, out of a"),
        ("max_length is 128: give at most 32", "--max-length is 128: give at most 32"),
        ("wrong: give another by `colour`", "wrong: give another by `colour`"),
        ("the column 'max_length' by `text`", "the column 'max_length' by --text"),
        ("`text` names 3 columns: name one", "--text names 3 columns: name one"),
        ("`label` names a column twice ('a'): name each once", "--label names a column twice ('a'): name each once"),
        ("`colour` names 3 columns", "`colour` names 3 columns"),
    ],
)
def test_arguments_of_a_task_are_named_as_options(sentence, shown):
    assert in_options(sentence) == shown
