"""The time of `import secateur` and of `secateur --version`, against an import of torch and transformers alone.

    python benchmarks/import_time.py [--repeats 7]

Each repeat starts every command once, in turn, in a new process; shown are medians of wall-clock seconds, and their
ratios to the import of the two libraries. The files are in the cache of the operating system after one untimed round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIBRARIES = "import torch, transformers"
COMMANDS = {
    LIBRARIES: [sys.executable, "-c", LIBRARIES],
    "import secateur": [sys.executable, "-c", "import secateur"],
    "import secateur, and both": [sys.executable, "-c", f"import secateur; {LIBRARIES}"],
    "secateur --version": [sys.executable, "-m", "secateur", "--version"],
    "secateur --help": [sys.executable, "-m", "secateur", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of a command, its process included."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Time the commands in turn and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    repeats = parser.parse_args().repeats
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(1 + repeats)][1:]
    medians = {name: statistics.median(times[name] for times in rounds) for name in COMMANDS}
    for name, median in medians.items():
        print(f"{name:<28} {median:6.2f} s  {median / medians[LIBRARIES]:5.2f}x")


if __name__ == "__main__":
    main()
