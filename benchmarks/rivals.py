"""SST-2 and MRPC with MiniLM-L6: GRAIN beside what one would otherwise take, each trained alike, at its latency.

    python benchmarks/rivals.py train --data DIR --teacher DIR        the runs with their baselines, one folder each
    python benchmarks/rivals.py table                                 what they have recorded, in Markdown

`--data` is a folder with `sst2` and `mrpc`; `--teacher` is MiniLM-L6 fine-tuned on SST-2, and the teacher for MRPC is
trained once, first. Settings are those of `benchmarks/rounds.py`. Layers are kept such that the latency at 8 x 128 is
the nearest to GRAIN's. A run has all cores and times its models in turn, with as many threads. Finished runs are not
repeated.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import typer
from rounds import SHARED, TASKS, teacher_of
from runner import Folder, finished, print_row, several

app = typer.Typer(add_completion=False)
RUNS = Path("runs/rivals")
OF_TASKS = {"sst2": "sst2", "mrpc": "paraphrase"}
"""Data set -> its name among the tasks of `benchmarks/rounds.py`."""
DENSITIES = (0.10, 0.05)
SEEDS = (0, 1)
BESIDE: dict[str, Any] = {"measurement.baselines": True, "measurement.shapes": [[1, 32], [8, 128]]}


def runs_of(task: str, data: Path, teacher: Path) -> dict[str, dict[str, Any]]:
    """Name -> recipe of every run on a task, the most important first."""
    base = {**SHARED, **TASKS[OF_TASKS[task]].settings, **BESIDE, "data": str(data / task), "teacher": str(teacher)}
    return {
        f"{density:g}-{seed}": {**base, "target.density": density, "seed": seed}
        for seed, density in product(SEEDS, DENSITIES)
    }


@app.command()
def train(data: Folder, teacher: Folder, task: str = "", only: list[str] | None = None) -> None:
    """Do every run that is not finished, or of these the named ones, such as 0.05-0."""
    for name in (name for name in OF_TASKS if name.startswith(task)):
        runs = runs_of(name, data, teacher_of(OF_TASKS[name], data, teacher, RUNS))
        if unknown := set(only or ()).difference(runs):
            raise typer.BadParameter(f"no run is called {', '.join(sorted(unknown))}")
        several(RUNS / name, {one: runs[one] for one in only or runs}, jobs=1)


@app.command()
def table() -> None:
    """Print the rows of every finished run: the teacher, the pruned model and its rivals."""
    from secateur.report import baselines
    from secateur.report.report import Report

    for folder in finished(sorted(RUNS.glob("*/*-*"))):
        report = Report.load(folder)
        heading, rows = baselines.table(report)
        print(f"\n{folder.parent.name}, {folder.name}: {report.metric}\n")
        print_row(heading)
        print_row(["---"] * len(heading))
        for row in rows:
            print_row(row)
        print(f"\n{baselines.advice(report)}")


if __name__ == "__main__":
    app()
