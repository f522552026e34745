"""SST-2 with MiniLM-L6: layers first and then what is inside them, beside width alone and depth alone.

    python benchmarks/rounds.py train --data DIR --teacher DIR      every run of the table, one folder each
    python benchmarks/rounds.py table --teacher DIR                 latencies in one process, and the table

The data, the teacher and all settings that the runs share are those of `sst2.py`. A run of two rounds has as many steps
in each as a run of `sst2.py` has altogether. Finished runs are not repeated; `--jobs` runs that many at once, with one
thread each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import typer
from runner import Folder, finished, print_row, several, spread, timings
from sst2 import SETTINGS, base

app = typer.Typer(add_completion=False)
RUNS = Path("runs/rounds")


@dataclass(frozen=True)
class Setting:
    """A row of the table: its label, what it changes, and its seeds."""

    label: str
    changed: dict[str, Any]
    seeds: tuple[int, ...] = (0,)


def _rounds(layers: int, density: float, **changed: Any) -> dict[str, Any]:
    return {
        "target.units": ["layer", "ffn", "qk", "vo"],
        "target.layers": layers,
        "target.density": density,
        "training.epochs": 3,
        "training.decay": "round",
        **changed,
    }


ROWS = (
    Setting("2 layers, then 0.05", _rounds(2, 0.05), (0, 1, 2)),
    Setting("width alone, 0.05", {"target.density": 0.05, "training.epochs": 3}, (0, 1, 2)),
    Setting("2 layers, then 0.05, one learning rate schedule", _rounds(2, 0.05) | {"training.decay": "run"}),
    Setting("3 layers, then 0.05", _rounds(3, 0.05)),
    Setting("2 layers, then 0.10", _rounds(2, 0.10)),
    Setting("2 layers, then 0.03", _rounds(2, 0.03)),
    Setting("1 layer, then 0.05", _rounds(1, 0.05)),
    Setting("depth alone, 2 layers", {"target.units": ["layer"], "target.density": 0.34, "training.epochs": 3}),
    Setting("all units in one ranking, 0.05", _rounds(2, 0.05) | {"target.layers": None, "training.decay": "run"}),
)


def name_of(row: Setting, seed: int) -> str:
    """The folder of a run."""
    return f"{row.label.replace(',', '').replace(' ', '-')}-{seed}"


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 2, label: str = "") -> None:
    """Do every run that is not finished, or those of rows whose label contains a text."""
    shared = base(data, teacher, SETTINGS)
    chosen = [(row, seed) for row in ROWS if label in row.label for seed in row.seeds]
    several(RUNS, {name_of(row, seed): {**shared, **row.changed, "seed": seed} for row, seed in chosen}, jobs)


@app.command()
def table(teacher: Folder, repeats: int = 20) -> None:
    """Measure every model against the dense one, interleaved in this process, and print the table in Markdown."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    dense = transformers.AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32)
    print("| model | seeds | dev accuracy | retention | density | layers | training, s | 1 x 32 | 8 x 128 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        if done := finished([RUNS / name_of(row, seed) for seed in row.seeds]):
            print_row(_cells(row.label, done, dense, repeats))


def _cells(label: str, done: list[Path], dense: Any, repeats: int) -> list[str]:
    from secateur import load, measure
    from secateur.report.report import Report

    reports = [Report.load(folder) for folder in done]
    model = load(done[0] / "model")
    latencies = [measure(model, dense, batch=b, tokens=t, repeats=repeats) for b, t in ((1, 32), (8, 128))]
    seconds = [report.seconds["prune"] + report.seconds["recover"] for report in reports]
    return [
        label,
        str(len(reports)),
        spread([report.scores["accuracy"] for report in reports]),
        f"{mean(report.retention or 0.0 for report in reports):.1%}",
        f"{reports[0].density['prunable']:.4f}",
        ", ".join(str(_layers(report)) for report in reports),
        spread(seconds, digits=0),
        *timings(latencies, digits=2),
    ]


def _layers(report: Any) -> int:
    """The number of layers of which something is left."""
    sizes = [
        [row.get(axis, "0/0") for axis in ("heads", "ffn")] for row in report.structure if row["layer"] != "stream"
    ]
    return sum(any(not size.startswith("0/") for size in own) for own in sizes)


if __name__ == "__main__":
    app()
