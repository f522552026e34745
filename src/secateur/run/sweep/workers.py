"""Several workers of a sweep on this machine, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from threading import Thread

THREADS = "OMP_NUM_THREADS"


def run_workers(command: Sequence[str], count: int, show: Callable[[str], None]) -> list[int]:
    """Run a command of secateur in several processes, and wait until all have ended; returns their exit codes.

    The cores are shared out among them, unless the environment says how many threads one takes. They end when this
    process is interrupted.

    Args:
        command: the words after `secateur`.
        show: takes each line that a worker says, with its number before it.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {THREADS: str(threads), **os.environ}
    words = [sys.executable, "-m", "secateur", *command]
    workers = [
        subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    readers = [Thread(target=_pass_on, args=(n, one, show), daemon=True) for n, one in enumerate(workers, 1)]
    try:
        for reader in readers:
            reader.start()
        return [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
        for worker in workers:
            worker.wait()
        for reader in readers:
            reader.join()


def _pass_on(number: int, worker: subprocess.Popen[str], show: Callable[[str], None]) -> None:
    assert worker.stderr is not None
    with worker.stderr as lines:
        for line in lines:
            show(f"worker {number}: {line.rstrip()}")
    if (code := worker.wait()) < 0:
        show(f"worker {number}: killed by signal {-code}; another one takes its trial over, or the same command again")
