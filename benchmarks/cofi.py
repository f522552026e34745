"""CoFi with MiniLM-L6: SST-2 and MRPC under both constraints, and an ablation of each kind of units.

    python benchmarks/cofi.py train   --data DIR --teacher DIR        every run of the tables, one folder each
    python benchmarks/cofi.py choose TASK --data DIR --teacher DIR SETTINGS...      on rows held out of training
    python benchmarks/cofi.py table   --data DIR --teacher DIR        latencies in one process, and the tables
    python benchmarks/cofi.py curves                                  expected and scheduled density, and the gates

`train --only NAME` does one run: its name is the density and the seed, `lagrangian` for the constraint of the
paper, and `longer` for a longer recovery, as in `0.05-0`, `0.05-0-lagrangian` and `0.05-0-longer`.

`--data` is a folder with `sst2` and `mrpc` (train.parquet and validation.parquet with GLUE's columns); `--teacher` is
MiniLM-L6 fine-tuned on SST-2. The teacher for MRPC is trained once, first. Finished runs are not repeated.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import typer
from runner import Folder, base_model, compare, finished, hold_out, one, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/cofi")
DENSITIES = (0.40, 0.20, 0.05)
SEEDS = (0, 1, 2)
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "exact": {"method.begin": 0.02},
    "lagrangian": {},
}
"""The constraint -> what it changes of the settings: one of them observes evidence first."""
SHARED: dict[str, Any] = {
    "method": "cofi",
    "method.ramp_rows": 0,
    "training.warmup": 0.02,
    "training.evaluations": 0,
    "training.checkpoints": 0,
    "measurement.shapes": [],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sst2": {
        "data.max_length": 64,
        "training.batch_size": 32,
        "training.epochs": 1.5,
        "method.begin": 0.01,
        "method.end": 0.25,
        "training.learning_rate": 5e-4,
        "method.options": {"learning_rate": 0.1},
    },
    "mrpc": {
        "data.max_length": 128,
        "training.batch_size": 16,
        "training.epochs": 8,
        "method.begin": 0.01,
        "method.end": 0.45,
        "training.learning_rate": 5e-4,
        "method.options": {"learning_rate": 0.1},
    },
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "without-hidden": {"target.units": ["head", "sublayer", "ffn"]},
    "without-sublayers": {"target.units": ["hidden", "head", "ffn"]},
    "without-layer-distillation": {"distillation.hidden": None},
}
HIGHER_RATE = {"training.learning_rate": 1e-3}
LONGER: dict[str, dict[str, Any]] = {
    "exact": {"training.epochs": 8, "method.begin": 0.004, "method.end": 0.05},
    "lagrangian": {"training.epochs": 8, "method.begin": 0.002, "method.end": 0.05},
}
"""The constraint -> the settings of a longer recovery, after about as many steps of evidence and of pruning."""
SHAPES = ((8, 128), (32, 128))


def teacher_of(task: str, data: Path, teacher: Path) -> Path:
    """The teacher of a task: that for SST-2 is `teacher`; that for MRPC is trained here, once."""
    if task == "sst2":
        return teacher
    folder = RUNS / task / "teacher-run"
    if not (folder / "teacher").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            **SHARED,
            "model": base_model(),
            "data": str(data / task),
            "data.max_length": 128,
            "training.teacher_epochs": 4,
            "training.teacher_learning_rate": 5e-5,
        }
        one(folder, values, folder, 2, "teacher")
    return folder / "teacher"


def recipes(task: str, data: Path) -> dict[str, dict[str, Any]]:
    """Name -> recipe of every run on a task but for its teacher.

    On SST-2 a longer recovery, another learning rate and ablations at the lowest density are among them.
    """
    base = {**SHARED, **SETTINGS[task], "model": base_model(), "data": str(data / task)}
    runs = {
        name_of(density, seed, constraint): {
            **base,
            "target.density": density,
            "seed": seed,
            "method.options": {**base["method.options"], "constraint": constraint},
            **changed,
        }
        for seed in SEEDS
        for density in DENSITIES
        for constraint, changed in CONSTRAINTS.items()
    }
    if task == "sst2":
        options = {**base["method.options"], "constraint": "lagrangian"}
        low = {**base, "target.density": DENSITIES[-1], "method.options": options}
        runs |= {
            longer_name(seed, constraint): {**runs[name_of(DENSITIES[-1], seed, constraint)], **changed}
            for seed in SEEDS
            for constraint, changed in LONGER.items()
        }
        exact = {**base, "target.density": DENSITIES[-1], **CONSTRAINTS["exact"], **HIGHER_RATE}
        runs |= {f"{DENSITIES[-1]:g}-{seed}-higher-rate": {**exact, "seed": seed} for seed in SEEDS}
        runs |= {name: {**low, **change} for name, change in ABLATIONS.items()}
    return runs


def name_of(density: float, seed: int, constraint: str) -> str:
    """The name of a run: the default constraint is left out."""
    return f"{density:g}-{seed}" + ("" if constraint == "exact" else f"-{constraint}")


def longer_name(seed: int, constraint: str) -> str:
    """The name of a run at the lowest density with a longer recovery."""
    return f"{name_of(DENSITIES[-1], seed, constraint)}-longer"


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 2, task: str = "", only: list[str] | None = None) -> None:
    """Do every run of the tables that is not finished, or of these the named ones, in their order."""
    of_tasks = {name: recipes(name, data) for name in SETTINGS if name.startswith(task)}
    if unknown := set(only or ()).difference(*of_tasks.values()):
        raise typer.BadParameter(f"no run is called {', '.join(sorted(unknown))}")
    for name, runs in of_tasks.items():
        if chosen := [one for one in only or runs if one in runs]:
            taught = {"teacher": str(teacher_of(name, data, teacher))}
            several(RUNS / name, {one: {**runs[one], **taught} for one in chosen}, jobs)


@app.command()
def choose(task: str, data: Folder, teacher: Folder, settings: list[str], jobs: int = 2, rows: int = 2000) -> None:
    """Compare settings (JSON objects that change the defaults) at density 0.05 on rows held out of the training set."""
    root = RUNS / task
    held_out = hold_out(data / task, root / "held-out", rows)
    base = {**SHARED, **SETTINGS[task], "model": base_model(), "data": str(held_out), "target.density": DENSITIES[-1]}
    compare(root, {**base, "teacher": str(teacher_of(task, data, teacher))}, settings, jobs)


@app.command()
def table(data: Folder, teacher: Folder, repeats: int = 30, only: str = "") -> None:
    """Measure every model, or those of one task, against the dense one in turn, and print the tables in Markdown."""
    import transformers

    transformers.logging.set_verbosity_error()
    rows: dict[str, Any] = {}
    for task in [name for name in SETTINGS if name.startswith(only)]:
        print(f"\n### {task}\n")
        print(
            "| run | seeds | score | retention | density of all layers | layers, heads, FFN, hidden | seconds | ",
            end="",
        )
        print(" | ".join(f"{batch} x {tokens}" for batch, tokens in SHAPES) + " |")
        print("|" + " --- |" * (7 + len(SHAPES)))
        dense = _dense(teacher_of(task, data, teacher))
        runs = {
            f"density {density:g}, {constraint}": [name_of(density, seed, constraint) for seed in SEEDS]
            for density in DENSITIES
            for constraint in CONSTRAINTS
        }
        if task == "sst2":
            runs["density 0.05, exact, higher learning rate"] = [f"0.05-{seed}-higher-rate" for seed in SEEDS]
            for constraint in CONSTRAINTS:
                runs[f"density 0.05, {constraint}, 8 epochs"] = [longer_name(seed, constraint) for seed in SEEDS]
            runs |= {f"0.05 {name}": [name] for name in ABLATIONS}
        for label, names in runs.items():
            rows |= _row(RUNS / task, label, names, dense, repeats)
    (RUNS / "table.json").write_text(json.dumps(rows, indent=1) + "\n")


@app.command()
def curves(task: str = "sst2", seed: int = 0, points: int = 10) -> None:
    """Print what the logs of the runs of a seed say at some points of the pruning, in Markdown."""
    from secateur.report import run_log

    names = [name_of(density, seed, constraint) for density in DENSITIES for constraint in CONSTRAINTS]
    for folder in finished([RUNS / task / name for name in names]):
        (prune,) = [stage for stage in run_log.read(folder).stages if stage.name == "prune"]
        lines = [line for line in prune.lines if "density_expected" in line]
        keys = ["density_target", "density_expected", "density"]
        keys += [key for prefix in ("open_", "gradient_", "penalty_") for key in prune.keys(prefix)]
        print(f"\n{folder.name}, {prune.steps} steps\n")
        print_row(["step", *keys])
        print_row(["---"] * (1 + len(keys)))
        for line in lines[:: max(1, len(lines) // points)]:
            print_row([str(line["step"]), *(f"{line[key]:.3g}" if key in line else "" for key in keys)])


def _dense(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


def _row(root: Path, label: str, names: list[str], dense: Any, repeats: int) -> dict[str, Any]:
    """Print the row of the finished runs among `names`, and return their reports and latencies."""
    from secateur import load, measure
    from secateur.report.report import Report

    done = finished([root / name for name in names])
    reports = [Report.load(folder) for folder in done]
    if not reports:
        return {}
    latencies = [measure(load(done[0] / "model"), dense, batch=b, tokens=t, repeats=repeats) for b, t in SHAPES]
    cells = [
        label,
        str(len(reports)),
        spread([report.scores[report.metric] for report in reports]),
        f"{mean(report.retention or 0.0 for report in reports):.1%}",
        f"{reports[0].density['layers']:.4f}",
        "; ".join(_kept(report.structure) for report in reports),
        ", ".join(f"{sum(report.seconds.values()):.0f}" for report in reports),
        *timings(latencies),
    ]
    print_row(cells)
    latency = [measurement.to_dict() for measurement in latencies]
    return {f"{root.name} {label}": {"reports": [report.to_dict() for report in reports], "latency": latency}}


def _kept(structure: list[dict[str, Any]]) -> str:
    """What is kept, as in `4+3 of 12, 17, 310, 250`: attentions + FFNs, heads, neurons (all layers), hidden dims."""
    layers, stream = structure[:-1], structure[-1]
    heads = [int(row["heads"].split("/")[0]) for row in layers]
    neurons = [int(row["ffn"].split("/")[0]) for row in layers]
    left = f"{sum(n > 0 for n in heads)}+{sum(n > 0 for n in neurons)} of {2 * len(layers)}"
    return f"{left}, {sum(heads)}, {sum(neurons)}, {stream['hidden'].split('/')[0]}"


if __name__ == "__main__":
    app()
