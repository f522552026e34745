"""Two processes in one folder: the second run is refused, other commands end as ever, and the first run is unharmed.

The first process is stopped at a random moment, so that the second surely comes while it runs, and continues after
it. Right is a first run that ends with the weights of a run that was alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG
from typer.testing import CliRunner

from faults_by_kind.endings import Outcome
from faults_by_kind.runs import job, same_weights, seconds_of, start
from secateur.cli import app
from secateur.run.run_folder import LOCK

BUSY = "another process is running in"
STEP = 0.05  # seconds


@dataclass(frozen=True)
class Second:
    """A command that comes while a run is going on in `run`, and the only sentence that may refuse it, "" for any."""

    words: Callable[[Path, Path], list[str | Path]]
    refusal: str = ""


def _prune(root: Path, run: Path, *further: str) -> list[str | Path]:
    return ["prune", "--recipe", root / "recipe.yaml", "--output", run, *further]


def _link(run: Path) -> Path:
    link = run.with_name(f"link to {run.name}")
    link.symlink_to(run.name)
    return link


SECONDS = {
    "the same command": Second(_prune, BUSY),
    "the same command by a link": Second(lambda root, run: _prune(root, _link(run)), BUSY),
    "the same command by another path": Second(lambda root, run: _prune(root, root / "whole" / ".." / run.name), BUSY),
    "another density": Second(lambda root, run: _prune(root, run, "--density", "0.5"), BUSY),
    "several densities": Second(lambda root, run: _prune(root, run, "--density", "0.5,0.3"), BUSY),
    "cut into it": Second(lambda root, run: ["cut", root / "whole" / "teacher", "--density", "0.5", "--output", run]),
    "eval": Second(lambda root, run: ["eval", run, "--data", root / "data.csv"]),
    "verify": Second(lambda root, run: ["verify", run]),
    "inspect": Second(lambda root, run: ["inspect", run]),
    "export": Second(lambda root, run: ["export", run, "--output", root / "model.pt2"]),
    "compare": Second(lambda root, run: ["compare", run, root / "whole"]),
}  # fmt: skip


def shared_folders(root: Path, scale: float) -> Iterator[Outcome]:
    """All second commands at random moments of runs, and locks that processes have left behind."""
    whole, draw = job(root), random.Random(0)
    seconds = seconds_of(root, root / "timed")
    for number in range(max(1, round(10 * scale))):
        yield from _together(root, root / f"run {number}", draw.uniform(0, seconds), whole)
    for name in ("a lock that is a file", "a lock that is a folder", "a lock of a process that died"):
        verdict, said = _left_behind(root, root / name, whole)
        yield "a lock that was left behind", verdict, name, said


def _together(root: Path, run: Path, moment: float, whole: Path) -> Iterator[Outcome]:
    first = start(root, run)
    _wait_for_lock(first, run, moment)
    first.send_signal(signal.SIGSTOP)
    running = (run / LOCK).exists()
    moment_in_words = f"after {moment:.1f} s{'' if running else ', when the run had ended'}"
    for name, second in SECONDS.items():
        verdict, said = _ending(second, root, run, running)
        yield "a second command in the folder of a run", verdict, f"{name}, {moment_in_words}", said
    first.send_signal(signal.SIGCONT)
    code = first.wait()
    unharmed = code == 0 and same_weights(whole, run)
    yield "a run with other commands in its folder", RIGHT if unharmed else WRONG, moment_in_words, f"exit code {code}"


def _wait_for_lock(process: subprocess.Popen[bytes], run: Path, moment: float) -> None:
    while process.poll() is None and not (run / LOCK).exists():
        _sleep()
    for _ in range(round(moment / STEP)):
        if process.poll() is None:
            _sleep()


def _sleep() -> None:
    time.sleep(STEP)


def _ending(second: Second, root: Path, run: Path, running: bool) -> tuple[str, str]:
    """(verdict, message) of the second command."""
    words = [str(word) for word in second.words(root, run)]
    done = CliRunner().invoke(app.app, words)
    said = done.stderr + repr(done.exception)
    if done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("error: "):
        return (REFUSED if not running or second.refusal in done.stderr else WRONG), said
    if done.exit_code:
        return TRACEBACK, said
    return (WRONG if running and second.refusal else RIGHT), "it ran beside the first"


def _left_behind(root: Path, run: Path, whole: Path) -> tuple[str, str]:
    """(verdict, message) of a run in whose folder there is a lock that nobody holds."""
    run.mkdir()
    if "folder" in run.name:
        (run / LOCK).mkdir()
    elif "file" in run.name:
        (run / LOCK).write_text(json.dumps({"pid": os.getpid()}))
    else:
        died = start(root, run)
        _wait_for_lock(died, run, 0)
        died.kill()
        died.wait()
    done = CliRunner().invoke(app.app, [str(word) for word in _prune(root, run)])
    said = done.stderr + repr(done.exception)
    if done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("error: "):
        return (REFUSED if "folder" in run.name else WRONG), said
    return (TRACEBACK if done.exit_code else RIGHT if same_weights(whole, run) else WRONG), said
