"""MPNet-base on SST-2, CoNLL-2003 and SQuAD, at the densities of the papers: GRAIN, CoFi and block movement.

    python benchmarks/base.py train   --data DIR      the teacher of each task, and every row, one folder each
    python benchmarks/base.py latency                 latencies of the finished rows on this machine's CPU
    python benchmarks/base.py table                   the table, in Markdown

`--data` is a folder with `sst2`, `conll2003` and `squad` (train.parquet and validation.parquet, with the columns of the
hub); `--model` is MPNet-base by default, which is fetched (`mpnet.py`). A row has the defaults of `secateur prune`,
with the exceptions in `TASKS` and `METHODS`. The rows of a task share its teacher, which is trained first. Finished
rows are not repeated, and an interrupted one goes on where it stopped. Latencies need the plans of the rows and the
config of their teacher alone, so that they can be measured on another machine than the one that trained.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Semaphore
from typing import Any

import mpnet
import typer
from runner import CONLL, Folder, finished, one, print_row

app = typer.Typer(add_completion=False)
RUNS, MPNET = Path("runs/base"), Path("runs/mpnet")
TEACHER = "teacher-run"
"""In the folder of a task: the folder of its teacher, with the teacher's cached outputs and scores."""
QUIET: dict[str, Any] = {"training.evaluations": 0, "measurement.shapes": []}
"""Keys without which a run takes longer and has the same result."""


@dataclass(frozen=True)
class Task:
    """A data set: its folder, and the keys of a recipe that say how to read it and how long GRAIN trains on it."""

    folder: str
    keys: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "sst2": Task("sst2"),
    "names": Task("conll2003", {"data.task": "tokens", "data.labels": CONLL, "training.epochs": 40}),
    "questions": Task("squad", {"data.task": "questions", "training.epochs": 20}),
}
"""The lengths on CoNLL-2003 and SQuAD are those of the papers."""
METHODS: dict[str, dict[str, Any]] = {
    "grain": {},
    "cofi": {"method": "cofi", "method.options": {"learning_rate": 0.1}, "training.learning_rate": 2.5e-4},
    "filled": {
        "method": "movement",
        "method.options": {"variant": "filled"},
        "training.learning_rate": 1.5e-4,
        "training.batch_size": 16,
    },
}
"""The learning rates are those of `cofi.py` and `movement.py`, for a model of twice the width; 16 is the paper's."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    task: str
    method: str
    density: float

    @property
    def name(self) -> str:
        """The name of its folder, without the seed."""
        return f"{self.method}-{self.density:g}"

    def recipe(self, data: Path, model: Path) -> dict[str, Any]:
        """The keys of its recipe."""
        own = TASKS[self.task]
        source = {"model": str(model), "data.source": str(data / own.folder), "target.density": self.density}
        return {**QUIET, **source, **own.keys, **METHODS[self.method]}


ROWS = (
    *(Row("sst2", "grain", density) for density in (0.10, 0.05, 0.03)),
    Row("sst2", "cofi", 0.05),
    *(Row("names", "grain", density) for density in (0.10, 0.05)),
    Row("questions", "filled", 0.26),
    Row("questions", "grain", 0.10),
)
SHAPES = ((1, 32), (8, 128))
TIMED = (("pytorch", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
"""Runtimes and dtypes of the latencies."""
LATENCY = "latency.json"
DENSE = "teacher"


# Training


@app.command()
def train(
    data: Folder,
    model: Path = MPNET,
    runs: Path = RUNS,
    only: str = "",
    seed: int = 0,
    parallel: int = 1,
    steps: int = 0,
    teacher_steps: int = 0,
    teacher_epochs: float = 0.0,
    teacher_rate: float = 0.0,
    batch_size: int = 0,
    rows: int = 0,
    checkpoints: int = 4,
) -> None:
    """Do every row whose folder contains a text, `parallel` processes at once, each with the same number of threads.

    The steps of a row, those of a teacher with its trials, the rows of a step and the number of training rows can be
    set for all. A teacher of some epochs at some learning rate has no trials.
    """
    if model == MPNET:
        mpnet.main(MPNET)
    lengths = {
        "training.steps": steps,
        "training.teacher_steps": teacher_steps,
        "training.teacher_epochs": teacher_epochs,
        "training.teacher_learning_rate": teacher_rate,
        "training.batch_size": batch_size,
        "data.rows": rows,
    }
    changed: dict[str, Any] = {key: value for key, value in lengths.items() if value}
    changed |= {"training.checkpoints": checkpoints} | ({"training.epochs": None} if steps else {})
    chosen = [row for row in ROWS if only in f"{row.task}/{row.name}-{seed}"]
    left = [row for row in chosen if not finished([runs / row.task / f"{row.name}-{seed}"])]
    _in_processes(
        {runs / task / TEACHER: Row(task, "grain", 0.05).recipe(data, model) | changed for task in _tasks(left)},
        {runs / row.task / f"{row.name}-{seed}": {**row.recipe(data, model), **changed, "seed": seed} for row in left},
        parallel,
    )


def _tasks(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows))


def _in_processes(teachers: dict[Path, dict[str, Any]], runs: dict[Path, dict[str, Any]], parallel: int) -> None:
    """Train teachers and compute their outputs, and do each run when its teacher exists, `parallel` at once."""
    slots, threads = Semaphore(parallel), max(1, _cores() // parallel)

    def train_teacher(folder: Path) -> None:
        with slots:
            one(folder, teachers[folder], folder, threads, "outputs")

    def run(folder: Path, teacher: Path) -> None:
        trained[teacher].result()
        if (teacher / "teacher").is_dir():
            with slots:
                one(folder, runs[folder], teacher, threads)

    with ThreadPoolExecutor(len(teachers) + len(runs) or 1) as pool:  # those that wait for a teacher block no other
        trained = {folder: pool.submit(train_teacher, folder) for folder in teachers}
        for future in [pool.submit(run, folder, folder.parent / TEACHER) for folder in runs]:
            future.result()


def _cores() -> int:
    """The threads that all processes have together."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


# Latency


@app.command()
def latency(runs: Path = RUNS, threads: int = 2, repeats: int = 20, only: str = "") -> None:
    """Time the models of each task against the dense one, in turn, and write the latencies to `latency.json`."""
    from secateur import cut
    from secateur.structure.plan import Plan

    for task in (name for name in TASKS if only in name):
        plans = {folder.name: folder / "model" / "plan.json" for folder in _done(runs, task)}
        if plans:
            dense = _dense(runs / task / TEACHER / "teacher", task)
            models = {DENSE: dense} | {name: cut(dense, Plan.load(path, dense)) for name, path in plans.items()}
            times = [time for runtime, dtype in TIMED for time in _times(models, runtime, dtype, threads, repeats)]
            (runs / task / LATENCY).write_text(json.dumps(times, indent=1) + "\n")


def _dense(folder: Path, task: str) -> Any:
    """The teacher of a task with random weights, on which latencies do not depend."""
    import transformers

    classes: dict[str, Any] = {
        "sst2": transformers.AutoModelForSequenceClassification,
        "names": transformers.AutoModelForTokenClassification,
        "questions": transformers.AutoModelForQuestionAnswering,
    }
    return classes[task].from_config(transformers.AutoConfig.from_pretrained(folder)).eval()


def _times(models: dict[str, Any], runtime: str, dtype: str, threads: int, repeats: int) -> list[dict[str, Any]]:
    """The latencies in a runtime and a dtype; none where this machine or its installation does not have them."""
    from secateur.measure.benchmark import benchmark
    from secateur.system.errors import UserError

    settings: dict[str, Any] = {"shapes": SHAPES, "repeats": repeats, "threads": threads, "peak_memory": False}
    try:
        results = benchmark(models, dense=DENSE, runtimes=[runtime], dtypes=[dtype], **settings)
    except UserError as error:
        print(error)
        return []
    return [result.to_dict() for result in results if (result.runtime, result.dtype) == (runtime, dtype)]


# The table


@app.command()
def table(runs: Path = RUNS) -> None:
    """Print a table of all finished rows, with the latencies that were measured."""
    timed = [f"{runtime} {dtype}, {b} x {t}" for runtime, dtype in TIMED for b, t in SHAPES]
    heads = ["run", "score", "of the teacher", "density", "MB", *timed, "minutes", "peak, GB", "on the GPU, GB"]
    print_row(heads)
    print_row(["---"] * len(heads))
    for task in TASKS:
        if done := _done(runs, task):
            times = _latencies(runs / task / LATENCY)
            print_row(_teacher_cells(done[0], times.get(DENSE, {})))
            for folder in done:
                print_row(_cells(folder, times.get(folder.name, {})))


def _done(runs: Path, task: str) -> list[Path]:
    """The folders of the finished rows of a task, of all seeds, in the order of `ROWS`."""
    names = [row.name for row in ROWS if row.task == task]
    return finished([folder for name in names for folder in sorted((runs / task).glob(f"{name}-*"))])


def _teacher_cells(folder: Path, times: dict[str, str]) -> list[str]:
    """The row of the teacher of a run."""
    from secateur.report.report import Report
    from secateur.run.accounting import Accounting

    report, used = Report.load(folder), Accounting(folder.parent / TEACHER)
    return [
        f"{folder.parent.name}: {DENSE}",
        f"{report.teacher_scores[report.metric]:.4f}",
        *("", "1", f"{report.weight_bytes['teacher'] / 1e6:.1f}"),
        *_rest(times, used.seconds(), used.memory()),
    ]


def _cells(folder: Path, times: dict[str, str]) -> list[str]:
    """The row of a run."""
    from secateur.report.report import Report

    report = Report.load(folder)
    error = "" if report.standard_error is None else f" ± {report.standard_error:.4f}"
    return [
        f"{folder.parent.name}: {folder.name}",
        f"{report.scores[report.metric]:.4f}{error}",
        "" if report.retention is None else f"{report.retention:.1%}",
        f"{report.density['prunable']:.4f}",
        f"{report.weight_bytes['model'] / 1e6:.1f}",
        *_rest(times, report.seconds, report.memory or {}),
    ]


def _rest(times: dict[str, str], seconds: Any, memory: Any) -> list[str]:
    """The cells of latency, time and memory."""
    timed = [times.get(f"{runtime} {dtype}, {b} x {t}", "") for runtime, dtype in TIMED for b, t in SHAPES]
    peak = memory.get("run", {})
    gigabytes = [f"{peak[kind] / 1e9:.1f}" if kind in peak else "" for kind in ("resident", "allocated")]
    return [*timed, f"{sum(seconds.values()) / 60:.1f}", *gigabytes]


def _latencies(path: Path) -> dict[str, dict[str, str]]:
    """Name of a model -> runtime, dtype and shape, as in the head of the table -> milliseconds and speed-up."""
    cells: dict[str, dict[str, str]] = {}
    for time in json.loads(path.read_text()) if path.is_file() else []:
        head = f"{time['runtime']} {time['dtype']}, {time['batch']} x {time['tokens']}"
        cells.setdefault(time["model"], {})[head] = f"{time['latency_ms']:.1f} ms, {time['speed_up']:.1f}x"
    return cells


if __name__ == "__main__":
    app()
