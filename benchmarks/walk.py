"""What a run predicts for other densities (`report/other_densities.py`), beside finished runs of these densities.

    python benchmarks/walk.py train --data DIR --teacher DIR     GRAIN at four densities from one pruning, on SST-2
    python benchmarks/walk.py table [FOLDER ...]                 predicted and measured scores, and the error

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; `--teacher` is a
fine-tuned MiniLM-L6, from which the student starts. `train` goes on where it stopped. Each FOLDER is one of several
densities, whose lowest run predicts the others; by default those of `train`. Runs of other recipes can be predicted
from as well, if one pruning makes them. *Without the ramp* is the same law with a flat ramp, which shows what its
scores add.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, NamedTuple

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
def table(folders: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """Print what the lowest density of each folder predicts for the others, and what they measured."""
    print_row(["run", "density", "predicted", "interval", "without the ramp", "measured"])
    print_row(["---"] * 6)
    rows = [row for folder in folders or sorted(RUNS.iterdir()) for row in _compared(folder)]
    print(f"\nof {len(rows)} predictions, {sum(row.inside for row in rows)} intervals have the measured score")
    for name, values in {"": [row.predicted for row in rows], ", without the ramp": [row.flat for row in rows]}.items():
        errors = [abs(value - row.measured) for value, row in zip(values, rows, strict=True)]
        print(f"mean absolute error{name} {mean(errors):.4f}, largest {max(errors):.4f}")


class Row(NamedTuple):
    """A prediction: with the ramp and as if it were flat, the measured score, and whether the interval has it."""

    predicted: float
    flat: float
    measured: float
    inside: bool


def _compared(folder: Path) -> list[Row]:
    """The predictions of a folder of several densities, which are printed, too."""
    from secateur.report.other_densities import predict, walk_of
    from secateur.report.report import Report

    reports = {float(path.parent.name): Report.load(path.parent) for path in folder.glob("*/report.json")}
    lowest = reports.pop(min(reports))
    walk, rows, densities = walk_of(lowest), [], sorted(reports, reverse=True)
    if walk is None:
        raise typer.BadParameter(f"{folder} has no scores from which to predict")
    flat = replace(walk, points=tuple(replace(point, score=0.0) for point in walk.points))
    for one, without in zip(predict(walk, densities), predict(flat, densities), strict=True):
        measured = reports[one.density].scores[lowest.metric]
        rows.append(Row(one.score, without.score, measured, one.low <= measured <= one.high))
        numbers = f"{one.score:.4f}", f"{one.low:.4f} to {one.high:.4f}", f"{without.score:.4f}", f"{measured:.4f}"
        print_row([folder.name, f"{one.density:g}", *numbers])
    return rows


if __name__ == "__main__":
    app()
