"""What a run predicts for other densities (`report/other_densities.py`), beside finished runs of these densities.

    python benchmarks/walk.py train --data DIR --teacher DIR     GRAIN at four densities from one pruning, on SST-2
    python benchmarks/walk.py table [FOLDER ...]                 predicted and measured scores, and the error

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; `--teacher` is a
fine-tuned MiniLM-L6, from which the student starts. `train` goes on where it stopped. Each FOLDER is one of several
densities, whose lowest run predicts the others; by default those of `train`. Runs of other recipes can be predicted
from as well, if one pruning makes them.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import typer
from runner import Folder, base_model, print_row

app = typer.Typer(add_completion=False)
RUNS = Path("runs/walk")
DENSITIES = (0.40, 0.20, 0.10, 0.05)
SETTINGS: dict[str, Any] = {
    "data.max_length": 64,
    "distillation.hidden": [2, 4, 6],
    "distillation.hidden_projection": False,
    "data.rows": 8000,
    "training.evaluations": 0,
    "training.checkpoints": 1,
    "method.begin": 0.01,
    "method.end": 0.15,
    "measurement.shapes": [],
}


@app.command()
def train(data: Folder, teacher: Folder, steps: int = 600, seed: int = 0, threads: int = 1) -> None:
    """Prune to all densities in one run."""
    import torch

    from secateur.run.density_sweep import sweep
    from secateur.run.recipe import make

    torch.set_num_threads(threads)
    values = {**SETTINGS, "model": base_model(), "teacher": str(teacher), "data": str(data), "seed": seed}
    sweep(make({**values, "training.steps": steps, "target.density": DENSITIES}), RUNS / f"{steps}-{seed}")


@app.command()
def table(folders: list[Path] | None = None) -> None:
    """Print what the lowest density of each folder predicts for the others, and what they measured."""
    print_row(["run", "density", "predicted", "interval", "measured", "error"])
    print_row(["---"] * 6)
    rows = [row for folder in folders or sorted(RUNS.iterdir()) for row in _compared(folder)]
    errors = [abs(predicted - measured) for predicted, measured, _ in rows]
    print(
        f"\nmean absolute error {mean(errors):.4f}, largest {max(errors):.4f}, of {len(errors)} predictions; ", end=""
    )
    print(f"{sum(inside for *_, inside in rows)} of the measured scores are inside of their interval")


def _compared(folder: Path) -> list[tuple[float, float, bool]]:
    """(predicted, measured, whether that is inside of the interval) of a folder of several densities, printed too."""
    from secateur.report.other_densities import predict, walk_of
    from secateur.report.report import Report

    reports = {float(path.parent.name): Report.load(path.parent) for path in folder.glob("*/report.json")}
    lowest = reports.pop(min(reports))
    walk, rows = walk_of(lowest), []
    if walk is None:
        raise typer.BadParameter(f"{folder} has no scores from which to predict")
    for one in predict(walk, sorted(reports, reverse=True)):
        measured = reports[one.density].scores[lowest.metric]
        rows.append((one.score, measured, one.low <= measured <= one.high))
        numbers = f"{one.score:.4f}", f"{one.low:.4f} to {one.high:.4f}", f"{measured:.4f}"
        print_row([folder.name, f"{one.density:g}", *numbers, f"{one.score - measured:+.4f}"])
    return rows


if __name__ == "__main__":
    app()
