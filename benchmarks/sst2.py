"""SST-2 with MiniLM-L6: GRAIN against magnitude and random pruning, at the same densities and training budget.

    python benchmarks/sst2.py train   --data DIR --teacher DIR        every run of the table, one folder each
    python benchmarks/sst2.py longer  --data DIR --teacher DIR        GRAIN with a longer recovery
    python benchmarks/sst2.py coarse  --data DIR --teacher DIR        GRAIN over whole heads, sublayers and layers
    python benchmarks/sst2.py faster  --data DIR --teacher DIR        GRAIN with rounded sizes, and target speed-ups
    python benchmarks/sst2.py walked  --data DIR --teacher DIR        GRAIN at all densities from one pruning
    python benchmarks/sst2.py choose  --data DIR --teacher DIR        settings, on 2,000 rows held out of training
    python benchmarks/sst2.py table   --teacher DIR                   latencies in one process, and the table

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; `--teacher` is a
fine-tuned MiniLM-L6, from which the student starts. Finished runs are not repeated; `--jobs` runs that many at once,
with one thread each.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import typer
from runner import Folder, base_model, compare, finished, hold_out, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/sst2")
METHODS = ("grain", "magnitude", "random")
DENSITIES = (0.20, 0.10, 0.05, 0.03)
SEEDS = {0.05: (0, 1, 2)}
SETTINGS: dict[str, Any] = {
    "data.max_length": 64,
    "distillation.hidden": [2, 4, 6],
    "distillation.hidden_projection": False,
    "training.batch_size": 64,
    "training.epochs": 1.5,
    "method.begin": 0.005,
    "method.end": 0.1,
    "training.learning_rate": 1e-3,
    "training.warmup": 0.02,
    "training.evaluations": 0,
    "training.checkpoints": 0,
    "measurement.shapes": [],
}
LONGER: dict[str, Any] = {
    **SETTINGS,
    "training.epochs": 8,
    "method.begin": 0.001,
    "method.end": 0.02,
}  # as many steps of pruning
ROUNDED, SPEED_UPS = 0.05, (5, 10)
LONGER_RUNS = ((0.05, 0), (0.05, 1), (0.05, 2), (0.03, 0))
COARSE = {
    "layers": ["layer", "ffn", "qk", "vo"],
    "heads": ["head", "ffn"],
    "sublayers": ["sublayer", "ffn", "qk", "vo"],
    "sublayers-heads": ["sublayer", "head", "ffn"],
}
"""Name -> units of which some are whole heads, sublayers or layers, all in one ranking."""
COARSE_RUNS = (
    *((units, 0.05) for units in COARSE),
    ("sublayers", 0.10),
    ("sublayers", 0.03),
    ("sublayers-heads", 0.10),
    ("sublayers-heads", 0.03),
)


def base(data: Path, teacher: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe that all runs share."""
    return {**settings, "model": base_model(), "teacher": str(teacher), "data": str(data)}


def name_of(method: str, density: float, seed: int) -> str:
    """The folder of a run."""
    return f"{method}-{density:g}-{seed}"


def planned() -> list[tuple[str, float, int]]:
    """(method, density, seed) of every run of the table, the most important first."""
    runs = [(m, d, s) for m, d in product(METHODS, DENSITIES) for s in SEEDS.get(d, (0,))]
    return sorted(runs, key=lambda run: (run[1] != 0.05, run[2]))


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 2, method: str = "", density: float = 0.0) -> None:
    """Do every run of the table that is not finished."""
    shared = base(data, teacher, SETTINGS)
    chosen = [run for run in planned() if run[0].startswith(method) and density in (0.0, run[1])]
    runs = {name_of(m, d, s): {**shared, "method": m, "target.density": d, "seed": s} for m, d, s in chosen}
    several(RUNS, runs, jobs)


@app.command()
def longer(data: Folder, teacher: Folder, jobs: int = 2) -> None:
    """Do every run of GRAIN with 8 epochs that is not finished."""
    shared = base(data, teacher, LONGER)
    runs = {f"{name_of('grain', d, s)}-longer": {**shared, "target.density": d, "seed": s} for d, s in LONGER_RUNS}
    several(RUNS, runs, jobs)


@app.command()
def coarse(data: Folder, teacher: Folder, jobs: int = 2, units: str = "", density: float = 0.0) -> None:
    """Do every unfinished run of GRAIN with coarse units, or those of one set of units or of one density."""
    runs = coarse_runs(base(data, teacher, SETTINGS))
    chosen = [(u, d) for u, d in COARSE_RUNS if units in ("", u) and density in (0.0, d)]
    several(RUNS, {name: runs[name] for u, d in chosen for name in coarse_names(u, d)}, jobs)


def coarse_runs(shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> recipe of the runs of `coarse`."""
    own = {**shared, "method": "grain", "target.layers": None}
    return {
        name: {**own, "target.units": COARSE[units], "target.density": density, "seed": seed}
        for units, density in COARSE_RUNS
        for name, seed in zip(coarse_names(units, density), SEEDS.get(density, (0,)), strict=True)
    }


def coarse_names(units: str, density: float) -> list[str]:
    """The folders of the runs with these units, one for each seed."""
    return [f"{name_of('grain', density, seed)}-{units}" for seed in SEEDS.get(density, (0,))]


@app.command()
def faster(data: Folder, teacher: Folder, jobs: int = 2) -> None:
    """Do every unfinished run of GRAIN with sizes in multiples of 8, and with a target speed-up at 8 x 128."""
    several(RUNS, faster_runs(base(data, teacher, SETTINGS)), jobs)


def faster_runs(shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> recipe of the runs of `faster`."""
    targets = {f"grain-{times}x": {"target.speedup": times, "target.shape": [8, 128]} for times in SPEED_UPS}
    targets |= {f"grain-{ROUNDED:g}-by-8": {"target.density": ROUNDED, "target.round_to": 8}}
    return {name: {**shared, "method": "grain", **target} for name, target in targets.items()}


@app.command()
def walked(data: Folder, teacher: Folder, threads: int = 1) -> None:
    """Prune with GRAIN to all densities in one run, and compare scores and seconds with the runs of `train`."""
    import torch

    from secateur.report.report import Report
    from secateur.run.density_sweep import sweep
    from secateur.run.recipe import make

    torch.set_num_threads(threads)
    together = sweep(
        make({**base(data, teacher, SETTINGS), "method": "grain", "target.density": DENSITIES}), RUNS / "walk"
    )
    alone = [Report.load(RUNS / name_of("grain", density, 0)) for density in DENSITIES]
    print("| density | score, one run | score, a run of its own | seconds, one run | seconds, a run of its own |")
    print("| --- | --- | --- | --- | --- |")
    for density, one, own in zip(DENSITIES, together, alone, strict=True):
        scores = [f"{report.scores[report.metric]:.4f}" for report in (one, own)]
        seconds = [", ".join(f"{stage} {used:.0f}" for stage, used in report.seconds.items()) for report in (one, own)]
        print(f"| {density:g} | {' | '.join([*scores, *seconds])} |")
    whole = [sum(sum(report.seconds.values()) for report in reports) for reports in (together, alone)]
    print(f"| all | | | {whole[0]:.0f} | {whole[1]:.0f} |")


@app.command()
def choose(data: Folder, teacher: Folder, settings: list[str], jobs: int = 2) -> None:
    """Compare settings (JSON objects that change the defaults) on rows held out of the training set."""
    compare(RUNS, base(hold_out(data, RUNS / "held-out", 2000), teacher, SETTINGS), settings, jobs)


@app.command()
def table(teacher: Folder, repeats: int = 50) -> None:
    """Measure every model against the dense one, interleaved in this process, and print the table in Markdown."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    dense = transformers.AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32)
    print(
        "| density | method | seeds | dev accuracy | retention | density of all layers "
        "| weights, MB | 1 x 32 | 8 x 128 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: dict[str, Any] = {}
    for density, method in product(DENSITIES, METHODS):
        names = [name_of(method, density, seed) for seed in SEEDS.get(density, (0,))]
        rows |= _row(density, method, names, dense, repeats)
    for density in sorted({d for d, _ in LONGER_RUNS}, reverse=True):
        names = [f"{name_of('grain', d, s)}-longer" for d, s in LONGER_RUNS if d == density]
        rows |= _row(density, "grain, 8 epochs", names, dense, repeats)
    for units, density in COARSE_RUNS:
        rows |= _row(density, f"grain, {', '.join(COARSE[units])}", coarse_names(units, density), dense, repeats)
    for name in faster_runs({}):
        rows |= _row(0.0, name, [name], dense, repeats)
    (RUNS / "table.json").write_text(json.dumps(rows, indent=1) + "\n")


def _row(density: float, label: str, names: list[str], dense: Any, repeats: int) -> dict[str, Any]:
    """Print the row of the finished runs among `names`, and return their reports and latencies."""
    from secateur import load, measure
    from secateur.report.report import Report

    done = finished([RUNS / name for name in names])
    reports = [Report.load(folder) for folder in done]
    if not reports:
        return {}
    model = load(done[0] / "model")
    latencies = [measure(model, dense, batch=b, tokens=t, repeats=repeats) for b, t in ((1, 32), (8, 128))]
    cells = [
        f"{density or reports[0].density['prunable']:.2g}",
        label,
        str(len(reports)),
        spread([report.scores["accuracy"] for report in reports]),
        f"{mean(report.retention or 0.0 for report in reports):.1%}",
        f"{reports[0].density['layers']:.4f}",
        f"{reports[0].weight_bytes['model'] / 1e6:.1f}",
        *timings(latencies, digits=2),
    ]
    print_row(cells)
    latency = [measurement.to_dict() for measurement in latencies]
    return {f"{label}-{density:g}": {"reports": [report.to_dict() for report in reports], "latency": latency}}


if __name__ == "__main__":
    app()
