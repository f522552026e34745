"""The memory of a run, stage by stage, above that of the libraries, at several densities.

    python benchmarks/memory.py run MODEL --data DIR     a run for each density, none of which is repeated
    python benchmarks/memory.py table                    the peaks of all finished runs, in Markdown

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; MODEL is a checkpoint
without a head, or a fine-tuned one. A run has the defaults of `secateur prune` but for its length: the peak does not
depend on it once every length of a batch has occurred. It is a process of its own with one thread. What is counted is
the highest resident memory in a stage, less that of the process after its imports. `run` is the highest of all, the
loading of models between the stages included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from runner import Folder, print_row

app = typer.Typer(add_completion=False)
RUNS, LIBRARIES = Path("runs/memory"), "libraries.json"
"""The folder of the runs, and the file of a run with the memory of the libraries."""
STAGES = ("teacher", "cache", "prune", "recover", "measure", "run")
SHORT: dict[str, Any] = {
    "training.evaluations": 1,
    "training.checkpoints": 0,
    "training.teacher_epochs": 0.2,
    "training.teacher_learning_rate": 5e-5,
    "distillation.check_teacher": False,
    "measurement.repeats": 3,
}
"""Settings that make a run shorter; none of them makes its peaks lower."""


@app.command()
def run(
    model: Path,
    data: Folder,
    density: Annotated[list[float], typer.Option()] = [0.05, 0.5],  # noqa: B006  # typer reads it, and changes nothing
    rows: int = 5452,
    steps: int = 300,
) -> None:
    """Do a run for each density, one after the other, and print the table."""
    for value in density:
        folder = RUNS / f"{model.name}-{value:g}"
        if not (folder / "report.json").is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            source = {"model": str(model), "data": str(data), "data.rows": rows}
            values = {**SHORT, **source, "target.density": value, "training.steps": steps}
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with Path(f"{folder}.log").open("a") as log:
                command = [sys.executable, __file__, "one", json.dumps(values), str(folder)]
                subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    table()


@app.command(hidden=True)
def one(values: str, folder: Path) -> None:
    """Do one run in this process."""
    import torch

    from secateur.run import pipeline
    from secateur.run.recipe import make
    from secateur.system import process_memory

    torch.set_num_threads(1)
    libraries = process_memory.held(process_memory.NOW)
    pipeline.run(make(json.loads(values)), folder)
    (folder / LIBRARIES).write_text(json.dumps(libraries) + "\n")


@app.command()
def table() -> None:
    """Print the peak of each stage of the finished runs, in GB above the libraries."""
    print_row(["run", "libraries, GB", *STAGES])
    print_row(["---"] * (2 + len(STAGES)))
    for place in sorted(RUNS.glob(f"*/{LIBRARIES}")):
        libraries = json.loads(place.read_text())
        peaks = json.loads((place.parent / "memory.json").read_text())
        cells = [f"{(peaks[stage]['resident'] - libraries) / 1e9:.2f}" if stage in peaks else "-" for stage in STAGES]
        print_row([place.parent.name, f"{libraries / 1e9:.2f}", *cells])


if __name__ == "__main__":
    app()
