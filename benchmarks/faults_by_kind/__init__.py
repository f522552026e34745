"""The kinds of faults, a module each; `benchmarks/faults.py` counts how their cases end."""

import logging
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "training")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands in processes of their own, whose weights are compared

import conftest  # noqa: E402, F401  # one thread, offline and quiet, as in the tests

logging.getLogger("torch.export").setLevel(logging.ERROR)  # it tries older formats, with a warning for each
