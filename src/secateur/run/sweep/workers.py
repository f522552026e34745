"""Several workers of a sweep on this machine, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType

THREADS = "OMP_NUM_THREADS"
ENDING = ("SIGTERM", "SIGHUP")
"""Signals that end a process unless it asked for something else; a closed terminal sends the second one."""


def run_workers(command: Sequence[str], count: int, show: Callable[[str], None]) -> list[int]:
    """Run a command of secateur in several processes, and wait until all have ended; returns their exit codes.

    The cores are shared out among them, unless the environment says how many threads one takes. They are in sessions of
    their own, which no terminal reaches, and get each signal once, from this process: they are interrupted, ended and
    suspended with it.

    Args:
        command: the words after `secateur`.
        show: takes each line that a worker says, with its number before it.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {THREADS: str(threads), **os.environ}
    words, workers = [sys.executable, "-m", "secateur", *command], list[subprocess.Popen[str]]()
    readers, leaving = list[Thread](), Event()
    with _signals_passed_on(workers):
        try:
            for number in range(1, count + 1):
                workers.append(_started(words, environment))
                readers.append(Thread(target=_say, args=(number, workers[-1], show, leaving), daemon=True))
                readers[-1].start()
            return [worker.wait() for worker in workers]
        finally:
            leaving.set()
            for worker in workers:
                worker.send_signal(signal.SIGINT)  # which does nothing to one that has ended
            for worker in workers:
                worker.wait()
            for reader in readers:
                reader.join()


def _started(words: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def _signals_passed_on(workers: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Inside, a signal that ends or suspends this process does so to the workers too, unless this one ignores it."""

    def end(number: int, frame: FrameType | None) -> None:
        _send(workers, number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def suspend(number: int, frame: FrameType | None) -> None:
        _send(workers, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        _send(workers, signal.SIGCONT)  # when this process goes on

    handlers = {getattr(signal, name): end for name in ENDING} | {signal.SIGTSTP: suspend}
    before = {number: signal.getsignal(number) for number in handlers}
    own = {number for number, handler in before.items() if handler == signal.SIG_DFL}
    for number in own:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


def _send(workers: Sequence[subprocess.Popen[str]], number: int) -> None:
    for worker in workers:
        worker.send_signal(number)


def _say(number: int, worker: subprocess.Popen[str], show: Callable[[str], None], leaving: Event) -> None:
    """Pass on what a worker says, and say how it was ended.

    Args:
        leaving: is set when this process interrupts its workers.
    """
    assert worker.stderr is not None
    with worker.stderr as lines:
        for line in lines:
            show(f"worker {number}: {line.rstrip()}")
    if (code := worker.wait()) == -signal.SIGINT and leaving.is_set():
        show(f"worker {number}: interrupted")
    elif code < 0:
        show(f"worker {number}: killed by signal {-code}; another one takes its trial over, or the same command again")
