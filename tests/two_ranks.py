"""How two processes are started on this machine, over gloo: by torchrun, by accelerate, or by their environment.

As a script, the command of secateur in two processes, without a launcher.
"""

import os
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load_file

TORCHRUN = (
    *("torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"),
    *("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
)
ACCELERATE = (
    *("accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", "--num_machines", "1"),
    *("--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
    *("--fsdp_cpu_ram_efficient_loading", "false"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
"""The models are split."""


def launched(launcher, *arguments):
    """The launcher, running: its two processes are of this source, and take a thread each."""
    return _started("-m", *launcher, *arguments)


def of_script(script, folder, *words):
    """What two processes of a script, called with a folder and words, write each to `folder/RANK.safetensors`.

    They have the environment of torchrun, but not torchrun, whose imports take as long as theirs; the script lets
    `in_both` do its work.
    """
    status, _, errors = ended(script, folder, *words)
    assert status == 0, errors[-3000:]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def ended(script, *words):
    """(status, stdout, stderr) of a script that lets `in_both` do its work."""
    with socket.socket() as free, socket.socket() as other:
        for one in (free, other):
            one.bind(("127.0.0.1", 0))
        ports = {"MASTER_PORT": str(free.getsockname()[1]), "OTHER_PORT": str(other.getsockname()[1])}
    place = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", **ports}
    parent = _started(script, *words, group=True, **place)
    try:
        out, errors = parent.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    return parent.returncode, out, errors


def in_both(work):
    """Let two forks work, which share what is imported already; as launchers do, end both when one of them fails."""
    working = set()
    for rank in "01":
        if (child := os.fork()) == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
            os._exit(_status_of(work))
        working.add(child)
    status = 0
    while working and not status:
        child, code = os.wait()
        working.remove(child)
        status = abs(os.waitstatus_to_exitcode(code))
    for child in working:
        os.kill(child, signal.SIGKILL)
    sys.exit(status)


def _status_of(work):
    """The exit status of a process that works."""
    try:
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _started(*arguments, group=False, **variables):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment | variables, start_new_session=group, **pipes)


if __name__ == "__main__":
    from secateur.cli import app
    from secateur.run import pipeline  # noqa: F401  # before the fork

    in_both(app.main)
