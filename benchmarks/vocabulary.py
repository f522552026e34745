"""MiniLM-L6 with a whole and with a cut vocabulary: score, bytes and latency on three data sets.

    python benchmarks/vocabulary.py train --data DIR --teacher DIR      every run of the tables, one folder each
    python benchmarks/vocabulary.py table --data DIR --teacher DIR      sizes and latencies in one process, in Markdown

`--data` is a folder with `sst2`, `conll2003` and `squad` (train.parquet and validation.parquet, with the columns of the
hub); `--teacher` is MiniLM-L6 fine-tuned on SST-2. The teachers of the other tasks are trained once, first. All runs of
a task have the same number of steps. Finished runs are not repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rounds import SHARED, TASKS, Row
from runner import Folder, one, several

app = typer.Typer(add_completion=False)
RUNS = Path("runs/vocabulary")
GRAIN: dict[str, Any] = {"target.density": 0.05}
TASK: dict[str, Any] = GRAIN | {"vocabulary.pieces": "task"}
ROWS = (
    Row("whole", GRAIN, (0, 1, 2)),
    Row("task", TASK, (0, 1, 2)),
    Row("task, rank", TASK | {"target.embedding_rank": "auto"}, (0, 1, 2)),
)
"""Rows of every task."""
DATA = ("sst2", "names", "questions")


def name_of(row: Row, seed: int) -> str:
    """The folder of a run."""
    return f"{row.label.replace(',', '').replace(' ', '-')}-{seed}"


def teacher_of(task: str, data: Path, sst2: Path) -> Path:
    """The teacher of a task: that of SST-2 is `sst2`; the others are trained here, once."""
    if task == "sst2":
        return sst2
    folder, own = RUNS / task / "teacher-run", TASKS[task]
    if not (folder / "teacher").is_dir():
        values = {**SHARED, **own.settings, **own.teacher, "data": str(data / own.folder)}
        one(folder, values, folder, 1, "teacher")
    return folder / "teacher"


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 1, task: str = "", label: str = "", seed: int = -1) -> None:
    """Do every run that is not finished: those of one task, of rows with a label, or of one seed."""
    for name in DATA:
        own = TASKS[name]
        if not name.startswith(task):
            continue
        base = {**SHARED, **own.settings, "data": str(data / own.folder)}
        base["teacher"] = str(teacher_of(name, data, teacher))
        runs = {
            name_of(row, number): {**base, **row.changed, "seed": number}
            for row in ROWS
            for number in (row.seeds if name == "sst2" else (0,))
            if seed in (-1, number) and label in ("", row.label)
        }
        several(RUNS / name, runs, jobs)


if __name__ == "__main__":
    app()
