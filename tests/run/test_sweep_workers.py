"""Signals to the workers of a sweep: each one once, from the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = f"""#!{sys.executable}
import os, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
open(sys.argv[-1] + f"/{{os.getpid()}}", "w").close()
while not heard:
    time.sleep(0.01)
end = time.monotonic() + 1.0  # the clean-up, longer than the 0.25 s for which Popen waits at an interruption
while time.monotonic() < end:
    time.sleep(0.01)
sys.exit(f"interrupted {{len(heard)}} times")
"""
KILLED = f"""#!{sys.executable}
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
open(sys.argv[-1] + f"/{{os.getpid()}}", "w").close()
time.sleep(60)
"""
PARENT = """
import signal, sys
from secateur.run.sweep import workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background would ignore
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
workers.sys.executable, folder = sys.argv[1:]
try:
    workers.run_workers([folder], 2, lambda line: sys.stdout.write(line + "\\n"))  # print writes the end by itself
except KeyboardInterrupt:
    print("left")
"""


@pytest.fixture
def started(tmp_path):
    """Starts two workers of a script in a process that leads a group, as a command in a terminal; returns it."""
    processes = []

    def start(script):
        (tmp_path / "python").write_text(script)
        (tmp_path / "python").chmod(0o755)
        (tmp_path / "workers").mkdir()
        command = [sys.executable, "-c", PARENT, str(tmp_path / "python"), str(tmp_path / "workers")]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdout=pipe, text=True, start_new_session=True))
        _until(lambda: len(_workers(tmp_path)) == 2)
        return processes[0]

    yield start
    processes[0].kill()
    processes[0].stdout.close()
    processes[0].wait()
    for number in filter(_alive, _workers(tmp_path)):
        os.kill(number, signal.SIGKILL)


def _workers(folder):
    return [int(path.name) for path in (folder / "workers").glob("*")]


def _until(found):
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(number):
    """The state of a process in the words of /proc, such as S (sleeps) or T (stopped); Z for one that is gone."""
    path = Path(f"/proc/{number}/stat")
    return path.read_text().rpartition(") ")[2][0] if path.exists() else "Z"


def _alive(number):
    return _state(number) != "Z"


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["terminal", "kill"])
def test_an_interruption_reaches_each_worker_once(started, send):
    parent = started(WORKER)
    send(parent.pid, signal.SIGINT)
    lines = parent.communicate(timeout=60)[0].splitlines()
    assert sorted(lines) == ["left", *(f"worker {n}: interrupted 1 times" for n in (1, 2))]


def test_a_worker_that_an_interruption_ends_at_once_is_not_called_killed(started):
    parent = started(KILLED)
    os.killpg(parent.pid, signal.SIGINT)
    lines = parent.communicate(timeout=60)[0].splitlines()
    assert sorted(lines) == ["left", "worker 1: interrupted", "worker 2: interrupted"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_end_with_the_process_that_started_them(started, tmp_path, number):
    parent = started(WORKER)
    os.kill(parent.pid, number)
    assert parent.wait(timeout=60) == -number
    _until(lambda: not any(map(_alive, _workers(tmp_path))))


def test_workers_are_suspended_and_go_on_with_the_process_that_started_them(started, tmp_path):
    parent = started(WORKER)
    os.kill(parent.pid, signal.SIGTSTP)
    everyone = [parent.pid, *_workers(tmp_path)]
    _until(lambda: {_state(number) for number in everyone} == {"T"})
    os.kill(parent.pid, signal.SIGCONT)
    _until(lambda: "T" not in {_state(number) for number in everyone})
    os.kill(parent.pid, signal.SIGINT)
    assert "worker 1: interrupted 1 times" in parent.communicate(timeout=60)[0]
