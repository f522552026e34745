"""Exactly K heads: differentiable subset pruning against head importance (Michel) and L0 gates (Voita).

    python benchmarks/heads.py train  --data DIR              every run of the tables, one folder each
    python benchmarks/heads.py choose TASK --data DIR SETTINGS...      on rows held out of the training set
    python benchmarks/heads.py table  --data DIR              latencies in one process, and the tables

`--data` is a folder with `mnli_small` (premise, hypothesis, label) and `multi30k` (en, de; with test.parquet). TASK is
`nli`, which prunes MiniLM-L6 after it is fine-tuned here, or `translation`, English to German, which prunes a Marian
model of 3 + 3 layers that is created and trained here, and scores it on the test set. All runs of a task use the same
rows, start from its teacher, are distilled from it, and recover after the cut. Finished runs are not repeated; `--jobs`
runs that many at once, with the same number of threads each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from runner import Folder, base_model, compare, finished, hold_out, one, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/heads")
QUIET: dict[str, Any] = {"training.evaluations": 0, "training.checkpoints": 0, "measurement.shapes": []}
TASKS: dict[str, dict[str, Any]] = {
    "nli": {"data.task": "classification", "data.max_length": 128, "training.batch_size": 32, "training.epochs": 1.0},
    "translation": {
        "data.task": "translation",
        "data.max_length": 64,
        "training.batch_size": 64,
        "training.epochs": 1.0,
        "training.learning_rate": 5e-4,
        "distillation.labels_weight": 1.0,
        "distillation.hidden": None,
    },
}
COLUMNS: dict[str, dict[str, Any]] = {"nli": {}, "translation": {"text": ("en",), "label": "de"}}
FOLDERS = {"nli": "mnli_small", "translation": "multi30k"}
TEACHER: dict[str, dict[str, Any]] = {
    "nli": {"training.teacher_epochs": 3, "training.teacher_learning_rate": 1e-4},
    "translation": {"training.teacher_epochs": 20, "training.teacher_learning_rate": 7e-4},
}
METHODS: dict[str, dict[str, Any]] = {
    "subset, joint": {"method": "subset"},
    "subset, pipelined": {"method": "subset", "method.train": "scores"},
    "subset, straight-through": {"method": "subset", "method.options": {"straight_through": True}},
    "michel": {"method": "michel"},
    "voita": {"method": "voita", "method.options": {"learning_rate": 0.3}},
}
SMALL: dict[str, Any] = {"width": 128, "ffn": 512, "vocabulary": 4000}
"""The sizes of the Marian model besides the defaults of `secateur new`, 3 + 3 layers of 4 heads."""
KEPT = {"nli": (48, 36, 24, 12, 6), "translation": (27, 18, 9, 4)}
"""Heads to keep: of the 6 x 12 of MiniLM-L6; and 3/4, 1/2, 1/4 and about 1/8 of 9 attentions x 4."""
SEEDS = {("nli", 12): (0, 1)}
"""The seeds of a row, if it has more than seed 0."""
SCORED = {"translation": {"validation": "test"}}
"""The split that the tables score; the teacher is scored on the validation split."""
SHAPES = {"nli": (8, 128), "translation": (8, 32)}


@app.command()
def train(data: Folder, jobs: int = 2, task: str = "", only: str = "") -> None:
    """Do every run of the tables that is not finished, of all tasks or of `task`, whose name begins with `only`."""
    for name in [name for name in TASKS if name.startswith(task)]:
        base = settings(name, data)
        runs = {run: {**base, **change} for run, change in changes(name).items() if run.startswith(only)}
        several(RUNS / name, runs, jobs)


def changes(task: str) -> dict[str, dict[str, Any]]:
    """Name of a run of a task's table -> the keys by which it differs from the task's settings."""
    return {
        f"{method} {kept} {seed}": {**change, "target.keep": kept, "seed": seed}
        for kept in KEPT[task]
        for method, change in METHODS.items()
        for seed in SEEDS.get((task, kept), (0,))
    }


def settings(task: str, data: Path) -> dict[str, Any]:
    """The keys that all runs of a task share."""
    teacher = str(teacher_of(task, data))
    own = {"model": teacher, "teacher": teacher, "data": str(data / FOLDERS[task])}
    return {**QUIET, **TASKS[task], **COLUMNS[task], **own, "data.options": SCORED.get(task, {})}


def teacher_of(task: str, data: Path) -> Path:
    """The model from which the runs of a task start, which is fine-tuned, or created and trained, once."""
    folder = RUNS / task / "teacher-run"
    if not (folder / "teacher").is_dir():
        own = str(data / FOLDERS[task])
        model = base_model() if task == "nli" else untrained(RUNS / task / "untrained", own)
        common = {**QUIET, **TASKS[task], **COLUMNS[task], **TEACHER[task]}
        values = {**common, "model": model, "data": own, "target.keep": 1, "method": "subset"}
        one(folder, values, folder, 2, "teacher")
    return folder / "teacher"


def untrained(folder: Path, data: str) -> str:
    """The folder of a small untrained Marian model, and of its tokenizer, trained on the training texts."""
    from secateur import new_model, tasks

    if not folder.is_dir():
        new_model(tasks.TASKS.get("translation").from_data(data, **COLUMNS["translation"]), folder, **SMALL)
    return str(folder)


@app.command()
def choose(task: str, data: Folder, changed: list[str], jobs: int = 2, rows: int = 1000) -> None:
    """Compare settings (JSON objects that change a task's) on rows held out of its training set."""
    root = RUNS / task
    held_out = hold_out(data / FOLDERS[task], root / "held-out", rows)
    compare(root, {**settings(task, data), "data": str(held_out), "data.options": {}}, changed, jobs)


@app.command()
def table(data: Folder, repeats: int = 20, task: str = "") -> None:
    """Measure against the dense model, interleaved in this process, and print the tables of all tasks, or of one."""
    import torch
    import transformers

    from secateur import tasks

    transformers.logging.set_verbosity_error()
    rows: dict[str, Any] = {}
    for name in [name for name in TASKS if name.startswith(task)]:
        parts = ("whole",) if name == "nli" else ("encoding", "decoding")
        batch, tokens = SHAPES[name]
        heads = " | ".join(f"{part}, {batch} x {tokens}" for part in parts)
        print(f"\n### {name}\n\n| method | heads | score | retention | parameters | seconds | {heads} |")
        print("|" + " --- |" * (6 + len(parts)))
        dense = tasks.TASKS.get(TASKS[name]["data.task"]).model_class.from_pretrained(
            teacher_of(name, data), dtype=torch.float32
        )
        for kept in KEPT[name]:
            for method in METHODS:
                seeds = SEEDS.get((name, kept), (0,))
                if done := finished([RUNS / name / f"{method} {kept} {seed}" for seed in seeds]):
                    rows[f"{name} {method} {kept}"] = _row(method, done, dense, parts, (batch, tokens), repeats)
    (RUNS / "table.json").write_text(json.dumps(rows, indent=1) + "\n")


def _row(
    method: str, folders: list[Path], dense: Any, parts: tuple[str, ...], shape: tuple[int, int], repeats: int
) -> dict[str, Any]:
    """Print the row of all seeds, with the latencies of the first, and return their reports and latencies."""
    from secateur import load, measure
    from secateur.report.report import Report

    reports = [Report.load(folder) for folder in folders]
    small = load(folders[0] / "model")
    batch, tokens = shape
    latencies = [measure(small, dense, batch=batch, tokens=tokens, repeats=repeats, part=part) for part in parts]
    kept = {sum(int(row["heads"].split("/")[0]) for row in report.structure[:-1]) for report in reports}
    digits = 2 if reports[0].scores[reports[0].metric] > 1 else 4
    cells = [
        method,
        ", ".join(map(str, sorted(kept))),
        spread([report.scores[report.metric] for report in reports], digits),
        spread([100 * (report.retention or 0.0) for report in reports], 1) + "%",
        f"{latencies[0].parameters:,}",
        spread([sum(report.seconds.values()) for report in reports], 0),
        *timings(latencies, speed_up_digits=2),
    ]
    print_row(cells)
    return {"reports": [report.to_dict() for report in reports], "latency": [one.to_dict() for one in latencies]}


if __name__ == "__main__":
    app()
