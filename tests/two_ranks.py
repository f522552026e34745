"""How two processes are started on this machine, over gloo: by torchrun, or by accelerate."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

TORCHRUN = (
    *("torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"),
    *("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
)
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)


def launched(launcher, *arguments):
    """The launcher, running: its two processes are of this source, and take a thread each."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def of_script(script, folder, *words):
    """What two processes of a script, called with a folder and words, write each to `folder/RANK.safetensors`."""
    run = launched(TORCHRUN, script, folder, *words)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors[-3000:]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]
