"""Block movement against GRAIN and CoFi, with MiniLM-L6: SQuAD (questions) and CoNLL-2003 (names).

    python benchmarks/movement.py train  --data DIR              every run of the tables, one folder each
    python benchmarks/movement.py choose TASK --data DIR SETTINGS...      on rows held out of the training set
    python benchmarks/movement.py table  --data DIR              latencies in one process, and the tables

`--data` is a folder with `squad` and `conll2003` (train.parquet and validation.parquet, with the columns of the hub).
TASK is `questions`, which trains on a part of SQuAD's questions (`TASKS`), or `names`. The teacher of a task is trained
once, first, and every student starts from it. Finished runs are not repeated; `--jobs` runs that many at once, with the
same number of threads each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from runner import CONLL, Folder, base_model, compare, finished, hold_out, one, print_row, several, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/movement")
QUIET: dict[str, Any] = {"training.evaluations": 0, "training.checkpoints": 0, "measurement.shapes": []}
TASKS: dict[str, dict[str, Any]] = {
    "questions": {
        "data.task": "questions",
        "data.max_length": 256,
        "data.rows": 6400,
        "training.batch_size": 8,
        "training.epochs": 1,
        "training.warmup": 0.05,
    },
    "names": {
        "data.task": "tokens",
        "data.labels": CONLL,
        "data.max_length": 128,
        "training.batch_size": 32,
        "training.epochs": 3,
        "training.warmup": 0.05,
    },
}
FOLDERS = {"questions": "squad", "names": "conll2003"}
TEACHER: dict[str, dict[str, Any]] = {
    "questions": {"data.rows": None, "training.teacher_epochs": 2, "training.teacher_learning_rate": 2e-4},
    "names": {"training.teacher_epochs": 3, "training.teacher_learning_rate": 2e-4},
}
"""The keys by which the teacher's training differs: it uses all questions."""
METHODS: dict[str, dict[str, Any]] = {
    "grain": {
        "method": "grain",
        "distillation.hidden": [2, 4, 6],
        "distillation.hidden_projection": False,
        "method.begin": 0.01,
        "method.end": 0.2,
        "training.learning_rate": 1e-3,
    },
    "movement": {"method": "movement", "training.learning_rate": 3e-4},
    "cofi": {
        "method": "cofi",
        "method.options": {"learning_rate": 0.1, "constraint": "lagrangian"},
        "method.begin": 0.01,
        "method.end": 0.4,
        "training.learning_rate": 5e-4,
    },
}
DENSITIES = (0.20, 0.10, 0.05)
STRENGTHS = (20, 40, 80)
"""Strengths of the penalty in the published procedure, in which they determine the density."""
SCORES = 0.1
"""Learning rate of the scores there: with the paper's 0.01 no score is below the threshold after that few steps."""
PAPER = 0.26
"""The density of the paper's model that is 2.4 times as fast at 99% of F1."""
LONGER: dict[str, Any] = {"data.rows": None, "training.epochs": 2, "distillation.cache_gb": 16}
"""All questions, twice: more training than in the other rows."""
SHAPES = ((1, 128), (8, 384))


def movement(**options: Any) -> dict[str, Any]:
    """Block movement's settings with these options."""
    return {**METHODS["movement"], "method.options": options}


def published(variant: str, strength: int) -> dict[str, Any]:
    """A variant by the published rule: the threshold rises, and the strength of the penalty determines the density."""
    return {**movement(variant=variant, faithful=True, strength=strength, learning_rate=SCORES), "target.density": 0.9}


def changes(task: str) -> dict[str, dict[str, Any]]:
    """Name of a run of a task's table -> the keys by which it differs from the task's settings."""
    rows = {f"grain {density:g}": {**METHODS["grain"], "target.density": density} for density in DENSITIES}
    if task == "names":
        return rows | {
            f"hybrid {density:g}": {**movement(variant="hybrid"), "target.density": density} for density in DENSITIES
        }
    for variant in ("hybrid", "filled"):
        rows |= {f"{variant}, strength {strength}": published(variant, strength) for strength in STRENGTHS}
        rows |= {f"{variant} {PAPER:g}": {**movement(variant=variant), "target.density": PAPER}}
    rows |= {f"struct {PAPER:g}": {**movement(variant="struct"), "target.density": PAPER}}
    rows |= {
        f"cofi {density:g}": {**METHODS["cofi"], "target.density": density} for density in (DENSITIES[0], DENSITIES[-1])
    }
    hybrid, filled = (f"{variant} {PAPER:g}" for variant in ("hybrid", "filled"))
    relu = {f"relu, {name}": {**rows[name], "model": str(with_relu())} for name in ("grain 0.1", hybrid)}
    longer = {f"longer, {name}": {**rows[name], **LONGER} for name in ("grain 0.1", "grain 0.05", hybrid, filled)}
    longest = {f"longest, {name}": {**rows[name], **LONGER, "training.epochs": 4} for name in (filled, "grain 0.05")}
    seeds = {f"seed 1, longer, {name}": {**rows[name], **LONGER, "seed": 1} for name in (filled, "grain 0.05")}
    return rows | relu | longer | longest | seeds


def with_relu() -> Path:
    """The folder of MiniLM-L6 with ReLU in place of GELU; a student of this config gets its teacher's weights."""
    from transformers import AutoModel, AutoTokenizer

    folder = RUNS / "relu"
    if not folder.is_dir():
        AutoTokenizer.from_pretrained(base_model()).save_pretrained(folder)
        AutoModel.from_pretrained(base_model(), hidden_act="relu").save_pretrained(folder)
    return folder


def recipes(task: str, data: Path) -> dict[str, dict[str, Any]]:
    """Name -> recipe of every row of a task's table."""
    base = {**QUIET, **TASKS[task], "model": base_model(), "teacher": str(teacher_of(task, data))}
    return {name: {**base, "data": str(data / FOLDERS[task]), **change} for name, change in changes(task).items()}


def teacher_of(task: str, data: Path) -> Path:
    """The folder of MiniLM-L6 fine-tuned on a task, which is done once."""
    folder = RUNS / task / "teacher-run"
    if not (folder / "teacher").is_dir():
        values = {**QUIET, **TASKS[task], **TEACHER[task], "model": base_model(), "data": str(data / FOLDERS[task])}
        one(folder, values, folder, 2, "teacher")
    return folder / "teacher"


@app.command()
def train(data: Folder, jobs: int = 2, task: str = "", only: str = "") -> None:
    """Do every run of the tables that is not finished, of all tasks or of `task`, whose name begins with `only`."""
    for name in [name for name in TASKS if name.startswith(task)]:
        runs = {run: values for run, values in recipes(name, data).items() if run.startswith(only)}
        several(RUNS / name, runs, jobs)


@app.command()
def choose(task: str, data: Folder, settings: list[str], jobs: int = 2, rows: int = 1000) -> None:
    """Compare settings (JSON objects that change a task's) on rows held out of its training set."""
    root = RUNS / task
    base = {**QUIET, **TASKS[task], "model": base_model(), "teacher": str(teacher_of(task, data))}
    compare(root, {**base, "data": str(hold_out(data / FOLDERS[task], root / "held-out", rows))}, settings, jobs)


@app.command()
def table(data: Folder, repeats: int = 30, task: str = "") -> None:
    """Measure against the dense model, interleaved in this process, and print the tables of all tasks, or of one."""
    import transformers

    transformers.logging.set_verbosity_error()
    rows: dict[str, Any] = {}
    for name in [name for name in TASKS if name.startswith(task)]:
        heads = " | ".join(f"{batch} x {tokens}" for batch, tokens in SHAPES)
        print(f"\n### {name}\n\n| run | F1 | retention | density | with zeros | heads | neurons | seconds | {heads} |")
        print("|" + " --- |" * (8 + len(SHAPES)))
        dense = _dense(name, teacher_of(name, data))
        for folder in finished([RUNS / name / run for run in changes(name)]):
            rows[f"{name} {folder.name}"] = _row(folder, dense, repeats)
    (RUNS / "table.json").write_text(json.dumps(rows, indent=1) + "\n")


def _dense(task: str, folder: Path) -> Any:
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

    kind: Any = AutoModelForQuestionAnswering if task == "questions" else AutoModelForTokenClassification
    return kind.from_pretrained(folder, dtype=torch.float32)


def _row(folder: Path, dense: Any, repeats: int) -> dict[str, Any]:
    """Print the row of a run, and return its report and latencies."""
    from secateur import load, measure
    from secateur.report.report import Report

    report = Report.load(folder)
    latencies = [measure(load(folder / "model"), dense, batch=b, tokens=t, repeats=repeats) for b, t in SHAPES]
    exact = f" ({report.scores['exact_match']:.4f})" if "exact_match" in report.scores else ""
    cells = [
        folder.name,
        f"{report.scores['f1']:.4f}{exact}",
        f"{report.retention:.1%}",
        f"{report.density['prunable']:.3f}",
        f"{report.density.get('filled', report.density['prunable']):.3f}",
        *(str(sum(int(row[axis].split("/")[0]) for row in report.structure[:-1])) for axis in ("heads", "ffn")),
        f"{sum(report.seconds.values()):.0f}",
        *timings(latencies),
    ]
    print_row(cells)
    return {"report": report.to_dict(), "latency": [measurement.to_dict() for measurement in latencies]}


if __name__ == "__main__":
    app()
