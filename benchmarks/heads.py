"""Exactly K heads: differentiable subset pruning beside the importance of heads and L0 gates.

    python benchmarks/heads.py train  --data DIR              every run of the tables, one folder each
    python benchmarks/heads.py choose TASK --data DIR SETTINGS...      on rows held out of the training set
    python benchmarks/heads.py table  --data DIR              latencies in one process, and the tables

`--data` holds the folders `mnli_small` (premise, hypothesis, label) and `multi30k` (en, de; with test.parquet).
`nli` prunes MiniLM-L6, fine-tuned here first; `translation` a Marian model of 3 + 3 layers made by `secateur new` and
trained here, English to German, which is scored on the test set. All runs of a task see the same rows, start from its
teacher, learn from its outputs and recover cut. Runs that are done are not repeated; `--jobs` runs several at once, by
threads alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from runner import Folder, base_model, compare, hold_out, one, several, spread

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
"""The Marian model, beside the 3 + 3 layers of 4 heads that `secateur new` makes by default."""
KEPT = {"nli": (48, 36, 24, 12, 6), "translation": (27, 18, 9, 4)}
"""Of MiniLM-L6's 6 x 12 heads; 3/4, 1/2, 1/4 and about 1/8 of 9 attentions x 4."""
SEEDS = {("nli", 12): (0, 1)}
"""Where there are more than one."""
SCORED = {"translation": {"validation": "test"}}
"""What the tables score instead of the validation split, which the teacher is scored on."""
SHAPES = {"nli": (8, 128), "translation": (8, 32)}


@app.command()
def train(data: Folder, jobs: int = 2, task: str = "", only: str = "") -> None:
    """Every run of the tables that is not done yet, or those of one task whose names begin so."""
    for name in [name for name in TASKS if name.startswith(task)]:
        base = settings(name, data)
        runs = {run: {**base, **change} for run, change in changes(name).items() if run.startswith(only)}
        several(RUNS / name, runs, jobs)


def changes(task: str) -> dict[str, dict[str, Any]]:
    """Name -> what a run of a task's table changes in its settings."""
    return {
        f"{method} {kept} {seed}": {**change, "target.keep": kept, "seed": seed}
        for kept in KEPT[task]
        for method, change in METHODS.items()
        for seed in SEEDS.get((task, kept), (0,))
    }


def settings(task: str, data: Path) -> dict[str, Any]:
    """What all runs of a task share."""
    teacher = str(teacher_of(task, data))
    own = {"model": teacher, "teacher": teacher, "data": str(data / FOLDERS[task])}
    return {**QUIET, **TASKS[task], **COLUMNS[task], **own, "data.options": SCORED.get(task, {})}


def teacher_of(task: str, data: Path) -> Path:
    """The model that a task's runs start from: fine-tuned, or made and trained, once."""
    folder = RUNS / task / "teacher-run"
    if not (folder / "teacher").is_dir():
        own = str(data / FOLDERS[task])
        model = base_model() if task == "nli" else untrained(RUNS / task / "untrained", own)
        common = {**QUIET, **TASKS[task], **COLUMNS[task], **TEACHER[task]}
        values = {**common, "model": model, "data": own, "target.keep": 1, "method": "subset"}
        one(folder, values, folder, 2, "teacher")
    return folder / "teacher"


def untrained(folder: Path, data: str) -> str:
    """A small Marian model, and its tokenizer, made from the training texts."""
    from secateur import new_model, tasks

    if not folder.is_dir():
        new_model(tasks.TASKS.get("translation").from_data(data, **COLUMNS["translation"]), folder, **SMALL)
    return str(folder)


@app.command()
def choose(task: str, data: Folder, changed: list[str], jobs: int = 2, rows: int = 1000) -> None:
    """Compare settings (JSON objects that change a task's) on rows held out of its training set."""
    root = RUNS / task
    held = hold_out(data / FOLDERS[task], root / "held-out", rows)
    compare(root, {**settings(task, data), "data": str(held), "data.options": {}}, changed, jobs)


@app.command()
def table(data: Folder, repeats: int = 20, task: str = "") -> None:
    """Latencies against the dense model, interleaved in this process, and the tables, or one task's, in Markdown."""
    import torch
    import transformers

    from secateur import tasks

    transformers.logging.set_verbosity_error()
    found: dict[str, Any] = {}
    for name in [name for name in TASKS if name.startswith(task)]:
        parts = ("whole",) if name == "nli" else ("encoding", "decoding")
        batch, tokens = SHAPES[name]
        heads = " | ".join(f"{part}, {batch} x {tokens}" for part in parts)
        print(f"\n### {name}\n\n| method | heads | score | retention | parameters | seconds | {heads} |")
        print("|" + " --- |" * (6 + len(parts)))
        dense = tasks.TASKS.get(TASKS[name]["task"]).model_class.from_pretrained(
            teacher_of(name, data), dtype=torch.float32
        )
        for kept in KEPT[name]:
            for method in METHODS:
                seeds = SEEDS.get((name, kept), (0,))
                folders = [RUNS / name / f"{method} {kept} {seed}" for seed in seeds]
                if done := [folder for folder in folders if (folder / "report.json").is_file()]:
                    found[f"{name} {method} {kept}"] = _row(method, done, dense, parts, (batch, tokens), repeats)
    (RUNS / "table.json").write_text(json.dumps(found, indent=1) + "\n")


def _row(
    method: str, folders: list[Path], dense: Any, parts: tuple[str, ...], shape: tuple[int, int], repeats: int
) -> dict[str, Any]:
    """Print one row, of all its seeds, with the latencies of the first; give what is behind it."""
    from secateur import load, measure
    from secateur.report.report import Report

    reports = [Report.load(folder) for folder in folders]
    small = load(folders[0] / "model")
    batch, tokens = shape
    fast = [measure(small, dense, batch=batch, tokens=tokens, repeats=repeats, part=part) for part in parts]
    kept = {sum(int(row["heads"].split("/")[0]) for row in report.structure[:-1]) for report in reports}
    digits = 2 if reports[0].scores[reports[0].metric] > 1 else 4
    cells = [
        method,
        ", ".join(map(str, sorted(kept))),
        spread([report.scores[report.metric] for report in reports], digits),
        spread([100 * (report.retention or 0.0) for report in reports], 1) + "%",
        f"{fast[0].parameters:,}",
        spread([sum(report.seconds.values()) for report in reports], 0),
        *(f"{one.latency_ms:.1f} ms, {one.speed_up:.2f}x" for one in fast),
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
    return {"reports": [report.to_dict() for report in reports], "latency": [one.to_dict() for one in fast]}


if __name__ == "__main__":
    app()
