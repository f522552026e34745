"""MiniLM-L6: layers first and then what is inside them, beside width alone and depth alone, on five data sets.

    python benchmarks/rounds.py train  --data DIR --teacher DIR      every run of the tables, one folder each
    python benchmarks/rounds.py depths --data DIR --teacher DIR      every depth, in short or whole runs, held out
    python benchmarks/rounds.py table  --data DIR --teacher DIR      latencies in one process, and the tables

`--data` is a folder with `sst2`, `conll2003`, `mrpc`, `stsb` and `squad` (train.parquet and validation.parquet, with
the columns of the hub); `--teacher` is MiniLM-L6 fine-tuned on SST-2. The teachers of the other tasks are trained once,
first. `base` is MPNet-base, which `python benchmarks/mpnet.py runs/mpnet` fetches, on a part of SST-2. All runs of a
task have the same number of steps. Finished runs are not repeated; `--jobs` runs that many at once, with one thread
each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import typer
from runner import CONLL, Folder, base_model, finished, hold_out, one, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS, MPNET = Path("runs/rounds"), Path("runs/mpnet")
SHARED: dict[str, Any] = {
    "model": base_model(),
    "distillation.hidden": [2, 4, 6],
    "distillation.hidden_projection": False,
    "training.learning_rate": 1e-3,
    "training.evaluations": 0,
    "training.checkpoints": 0,
    "measurement.shapes": [],
}
"""The settings of GRAIN that were chosen on SST-2."""


@dataclass(frozen=True)
class Task:
    """A data set: its folder, the settings of its runs, and those by which the training of its teacher differs.

    The steps of a run are in `settings`, and so are `method.begin` and `method.end`, which are parts of each round.
    """

    folder: str
    settings: dict[str, Any]
    teacher: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "sst2": Task(
        "sst2",
        {
            "data.max_length": 64,
            "training.batch_size": 64,
            "training.epochs": 3,
            "training.warmup": 0.02,
            "method.begin": 0.005,
            "method.end": 0.1,
        },
    ),
    "names": Task(
        "conll2003",
        {
            "data.task": "tokens",
            "data.labels": CONLL,
            "training.batch_size": 32,
            "training.epochs": 4,
            "training.warmup": 0.05,
            "method.begin": 0.01,
            "method.end": 0.2,
        },
        {"training.teacher_epochs": 3, "training.teacher_learning_rate": 2e-4},
    ),
    "paraphrase": Task(
        "mrpc",
        {
            "training.batch_size": 32,
            "training.epochs": 10,
            "training.warmup": 0.05,
            "method.begin": 0.01,
            "method.end": 0.2,
        },
        {"training.teacher_epochs": 4, "training.teacher_learning_rate": 1e-4},
    ),
    "similarity": Task(
        "stsb",
        {
            "training.batch_size": 32,
            "training.epochs": 6,
            "training.warmup": 0.05,
            "method.begin": 0.01,
            "method.end": 0.2,
        },
        {"training.teacher_epochs": 4, "training.teacher_learning_rate": 1e-4},
    ),
    "base": Task(
        "sst2",
        {
            "model": str(MPNET),
            "data.rows": 16000,
            "data.max_length": 64,
            "distillation.hidden": [4, 8, 12],
            "training.batch_size": 64,
            "training.epochs": 4,
            "training.warmup": 0.05,
            "training.learning_rate": 5e-4,
            "method.begin": 0.01,
            "method.end": 0.2,
        },
        {"training.teacher_epochs": 1, "training.teacher_learning_rate": 5e-5},
    ),
    "questions": Task(
        "squad",
        {
            "data.task": "questions",
            "data.max_length": 256,
            "distillation.cache_gb": 16,
            "training.batch_size": 16,
            "training.epochs": 2,
            "training.warmup": 0.05,
            "method.begin": 0.01,
            "method.end": 0.2,
        },
        {"training.teacher_epochs": 2, "training.teacher_learning_rate": 2e-4},
    ),
}


@dataclass(frozen=True)
class Row:
    """A row of a table: its label, what it changes, and its seeds on SST-2; on other data its seed is 0."""

    label: str
    changed: dict[str, Any]
    seeds: tuple[int, ...] = (0,)


UNITS = ("layer", "ffn", "qk", "vo")
TIME: dict[str, Any] = {"target.density": None, "target.shape": [8, 128]}
"""Of recipes whose target is a speed-up."""


def rounds(layers: int | str, **amount: float) -> dict[str, Any]:
    """Two rounds, to `density` or `speedup`."""
    target = {f"target.{name}": value for name, value in amount.items()}
    return {"target.units": [*UNITS], "target.layers": layers, **target, "training.decay": "round"}


def to_speedup(values: dict[str, Any]) -> dict[str, Any]:
    """The latency table of a recipe whose target is a speed-up: measured once, for the runs of all tasks."""
    if "target.speedup" not in values:
        return {}
    path = RUNS / "latency.json"
    if not path.is_file():
        from transformers import AutoModelForSequenceClassification

        from secateur import LatencyTable

        model = AutoModelForSequenceClassification.from_pretrained(base_model())
        RUNS.mkdir(parents=True, exist_ok=True)
        LatencyTable.measure(model, *UNITS, batch=8, tokens=128).save(path)
    return {"target.latency_table": str(path)}


WIDTH: dict[str, Any] = {"target.density": 0.05}
DEPTH: dict[str, Any] = {"target.units": ["layer"], "target.density": 0.34}
MAIN = (
    Row("depth and width, 0.05", rounds("auto", density=0.05), (0, 1, 2)),
    Row("width alone, 0.05", WIDTH, (0, 1, 2)),
    Row("2 layers, then 0.05", rounds(2, density=0.05)),
    Row("depth alone, 2 layers", DEPTH),
    Row("depth and width, 0.10", rounds("auto", density=0.10)),
    Row("depth and width, 0.03", rounds("auto", density=0.03)),
    Row("depth and width, 10x", TIME | rounds("auto", speedup=10)),
    Row("width alone, 10x", TIME | {"target.speedup": 10}),
)
"""Rows of every task; `auto` chooses the number of layers by trials."""
SST2 = (
    Row("depth and width, 5x", TIME | rounds("auto", speedup=5)),
    Row("depth and width, 15x", TIME | rounds("auto", speedup=15)),
    Row("3 layers, then 0.05", rounds(3, density=0.05)),
    Row("1 layer, then 0.05", rounds(1, density=0.05)),
    Row("2 layers, then 0.05, one learning rate schedule", rounds(2, density=0.05) | {"training.decay": "run"}),
    Row("all units in one ranking, 0.05", {**WIDTH, "target.units": [*UNITS], "target.layers": None}),
)
"""Further rows of SST-2."""


def rows_of(task: str) -> tuple[Row, ...]:
    """The rows of a task's table."""
    return (*MAIN, *SST2) if task == "sst2" else MAIN


def name_of(row: Row, seed: int) -> str:
    """The folder of a run."""
    return f"{row.label.replace(',', '').replace(' ', '-')}-{seed}"


def seeds_of(task: str, row: Row) -> tuple[int, ...]:
    """The seeds of a row."""
    return row.seeds if task == "sst2" else row.seeds[:1]


def teacher_of(task: str, data: Path, sst2: Path, runs: Path = RUNS) -> Path:
    """The teacher of a task: that of SST-2 is `sst2`; the others are trained in `runs`, once."""
    if task == "sst2":
        return sst2
    folder, own = runs / task / "teacher-run", TASKS[task]
    if not (folder / "teacher").is_dir():
        values = {**SHARED, **own.settings, **own.teacher, "data": str(data / own.folder)}
        one(folder, values, folder, 1, "teacher")
    return folder / "teacher"


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 2, task: str = "", label: str = "", seed: int = -1) -> None:
    """Do every run that is not finished: those of one task, of rows whose label contains a text, or of one seed."""
    for name, own in TASKS.items():
        if name.startswith(task):
            base = {**SHARED, **own.settings, "data": str(data / own.folder)}
            base["teacher"] = str(teacher_of(name, data, teacher))
            chosen = [(row, one) for row in rows_of(name) if label in row.label for one in seeds_of(name, row)]
            runs = {
                name_of(row, one): {**base, **row.changed, **to_speedup(row.changed), "seed": one}
                for row, one in chosen
                if seed in (-1, one)
            }
            if runs:
                several(RUNS / name, runs, jobs)


@app.command()
def depths(data: Folder, teacher: Folder, jobs: int = 2, task: str = "", part: str = "", rows: int = 1000) -> None:
    """Compare each number of layers at 0.05 on rows held out of training: in a tenth of the steps, and in all.

    `part` is `tenth` or `whole`, for one of the two.
    """
    for name, own in TASKS.items():
        if name.startswith(task):
            root = RUNS / name / "depths"
            base = {**SHARED, **own.settings, "data": str(hold_out(data / own.folder, root / "held-out", rows))}
            base["teacher"] = str(teacher_of(name, data, teacher))
            changes = {"width": WIDTH, **{f"{layers}-layers": rounds(layers, density=0.05) for layers in (4, 3, 2, 1)}}
            whole = own.settings["training.epochs"]
            runs = {
                f"{name}-{change}": {**base, **changed, "training.epochs": whole * fraction}
                for name, fraction in (("tenth", 0.1), ("whole", 1.0))
                for change, changed in changes.items()
                if name.startswith(part)
            }
            several(root, runs, jobs)
            _print_scores(root, runs)


def _print_scores(root: Path, runs: dict[str, Any]) -> None:
    from secateur.report.report import Report

    for folder in finished([root / name for name in runs]):
        report = Report.load(folder)
        print_row([folder.name, f"{report.scores[report.metric]:.4f}", f"{_training(report):.0f} s"])


@app.command()
def table(data: Folder, teacher: Folder, task: str = "", repeats: int = 20) -> None:
    """Measure every model against the dense one, interleaved in this process, and print the tables in Markdown."""
    import transformers

    transformers.logging.set_verbosity_error()
    for name in TASKS:
        if name.startswith(task):
            print(f"\n{name}\n")
            print_row(["model", "seeds", "score", "retention", "density", "layers", "seconds", "1 x 32", "8 x 128"])
            print_row(["---"] * 9)
            _print_table(name, data, teacher_of(name, data, teacher), repeats)


def _print_table(task: str, data: Path, teacher: Path, repeats: int) -> None:
    from secateur.run.recipe import make
    from secateur.run.run_data import RunData

    own = TASKS[task]
    recipe = make({**SHARED, **own.settings, "data": str(data / own.folder), "teacher": str(teacher)})
    dense = RunData(recipe).task.load_model(str(teacher))
    for row in rows_of(task):
        if done := finished([RUNS / task / name_of(row, seed) for seed in seeds_of(task, row)]):
            print_row(_cells(row.label, done, dense, repeats))


def _cells(label: str, done: list[Path], dense: Any, repeats: int) -> list[str]:
    from secateur import load, measure
    from secateur.report.report import Report

    reports = [Report.load(folder) for folder in done]
    model = load(done[0] / "model")
    latencies = [measure(model, dense, batch=b, tokens=t, repeats=repeats) for b, t in ((1, 32), (8, 128))]
    return [
        label,
        str(len(reports)),
        spread([report.scores[report.metric] for report in reports]),
        f"{mean(report.retention or 0.0 for report in reports):.1%}",
        f"{reports[0].density['prunable']:.4f}",
        ", ".join(str(_layers(report)) for report in reports),
        spread([_training(report) for report in reports], digits=0),
        *timings(latencies, digits=2),
    ]


def _training(report: Any) -> float:
    """Seconds of pruning and recovery."""
    return sum(report.seconds.get(stage, 0.0) for stage in ("prune", "recover"))


def _layers(report: Any) -> int:
    """The number of layers of which something is left."""
    sizes = [
        [row.get(axis, "0/0") for axis in ("heads", "ffn")] for row in report.structure if row["layer"] != "stream"
    ]
    return sum(any(not size.startswith("0/") for size in own) for own in sizes)


if __name__ == "__main__":
    app()
