"""How two processes are started on this machine, over gloo: by torchrun, by accelerate, or by their environment."""

import os
import socket
import subprocess
import sys
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

    They have the environment of torchrun, but not torchrun, whose imports take as long as theirs.
    """
    with socket.socket() as free, socket.socket() as other:
        for one in (free, other):
            one.bind(("127.0.0.1", 0))
        ports = {"MASTER_PORT": str(free.getsockname()[1]), "OTHER_PORT": str(other.getsockname()[1])}
        place = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", **ports}
    ranks = [_started(script, folder, *words, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def _started(*arguments, **variables):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment | variables, **pipes)
