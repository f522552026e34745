"""Counts how faults end: damaged folders, full disks, killed runs, interrupted calls, crafted archives, and others.

    OMP_NUM_THREADS=1 python benchmarks/faults.py                 the table of RESULTS.md, about half an hour
    OMP_NUM_THREADS=1 python benchmarks/faults.py kills data      some of it
    OMP_NUM_THREADS=1 python benchmarks/faults.py --scale 0.1     a tenth of the cases

Every case ends in one of four ways: refused with one sentence; right, with the same weights and logits (or rows and
labels) as without the fault; WRONG; or with a traceback from our code. The modules of `faults_by_kind` say what is
right for each kind. Cases that end WRONG or with a traceback are printed. The part `disks` needs root, because it
mounts disks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from faults_by_kind import (
    archives,
    caches,
    data_forms,
    dtypes,
    folders,
    heads,
    interrupts,
    labels,
    optimizers,
    runs,
    shared_folders,
    teachers,
    training,
)
from faults_by_kind.endings import TRACEBACK, VERDICTS, WRONG, Outcome

PARTS: dict[str, Callable[[Path, float], Iterator[Outcome]]] = {
    "folders": folders.folders,
    "edits": folders.edits,
    "names": folders.names,
    "disks": runs.disks,
    "kills": runs.kills,
    "shared": shared_folders.shared_folders,
    "data": training.data,
    "losses": training.losses,
    "interrupts": interrupts.interrupts,
    "optimizers": optimizers.optimizers,
    "archives": archives.archives,
    "heads": heads.heads,
    "dtypes": dtypes.dtypes,
    "caches": caches.caches,
    "labels": labels.labels,
    "forms": data_forms.data_forms,
    "teachers": teachers.teachers,
}


def _count(name: str, scale: float, counts: dict[str, Counter[str]]) -> None:
    with TemporaryDirectory(prefix="faults ", ignore_cleanup_errors=True) as root:
        for row, verdict, case, said in PARTS[name](Path(root), scale):
            counts.setdefault(row, Counter())[verdict] += 1
            if verdict in (WRONG, TRACEBACK):
                print(f"{verdict}: {row}: {case}\n    {said[-600:]}", file=sys.stderr, flush=True)


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    scale: Annotated[float, typer.Option(help="Of the number of cases.", min=0.001, max=10)] = 1.0,
) -> None:
    """Count how faults end, and print the table."""
    counts: dict[str, Counter[str]] = {}
    with suppress(KeyboardInterrupt):  # the table then has what was counted until then
        for name in parts or PARTS:
            _count(name, scale, counts)
    print(f"| fault | cases | {' | '.join(VERDICTS)} |\n| --- | {' | '.join(['---'] * 5)} |")
    for row, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"| {row} | {sum(count.values()):,} | {' | '.join(f'{count[verdict]:,}' for verdict in VERDICTS)} |")


if __name__ == "__main__":
    typer.run(main)
