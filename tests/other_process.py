"""A script of the tests in a Python process of its own, in which warnings are errors as they are here."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
WARNINGS = os.environ.get("WARNINGS_OF_TESTS", "error")
"""What Python does with warnings there (`python -W`): .ci/compat lets those of other versions pass."""


def last_line(script, *arguments, **environment):
    """The last line that the script prints; its errors are an assertion's message."""
    own = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, "-W", WARNINGS, str(script), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]
