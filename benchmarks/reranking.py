"""A reranker of MiniLM-L6 on SQuAD: GRAIN beside whole layers and int8, MRR@10 and the time of 100 pairs.

    python benchmarks/reranking.py train --data DIR      the cross-encoder, and every run of the table, one folder each
    python benchmarks/reranking.py table --data DIR      scores, sizes and latencies in one process, in Markdown

`--data` is a folder with `squad` (train.parquet and validation.parquet, with the columns of the hub). Of both splits
lists are made, by a seed: questions of training with their own context and three others of training, questions of
validation with their own context and nine others of validation. The cross-encoder is trained on the lists of training
first; all runs prune it with the same number of steps. Nothing is chosen on validation. Finished runs are not
repeated. `--questions`, `--scored` and `--steps` make a longer benchmark or a trial, in another folder (`--runs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from rounds import SHARED
from runner import Folder, finished, one, print_row, several, spread

app = typer.Typer(add_completion=False)
RUNS = Path("runs/reranking")
QUESTIONS, SCORED, STEPS = 1600, 600, 300
"""Questions of training, with four pairs each, and of validation, with ten; and the steps of a run, of 32 pairs."""
NEGATIVES = {"train": 3, "validation": 9}
TOKENS = 64
"""Of a pair in training and scoring; longer contexts are truncated."""
PAIRS = (100, 128)
"""The shape that is timed: the pairs of one query with 100 passages in one batch, 128 tokens each, without padding."""
SETTINGS: dict[str, Any] = {
    **SHARED,
    "data.task": "reranking",
    "data.max_length": TOKENS,
    "training.batch_size": 32,
    "training.warmup": 0.05,
    "method.begin": 0.01,
    "method.end": 0.2,
    "distillation.check_teacher": False,
}
"""The teacher is not checked, because that would look at the validation lists before the runs."""
TEACHER: dict[str, Any] = {"training.teacher_epochs": 1, "training.teacher_learning_rate": 1e-4}


@dataclass(frozen=True)
class Row:
    """A row of the table: its label, what it changes, and its seeds."""

    label: str
    changed: dict[str, Any]
    seeds: tuple[int, ...] = (0,)

    @property
    def folders(self) -> dict[str, int]:
        """Name of the folder of a run -> its seed."""
        return {f"{self.label.replace(', ', '-').replace(' ', '-')}-{seed}": seed for seed in self.seeds}


LAYERS: dict[str, Any] = {"target.units": ["layer"], "target.density": None}
ROWS = (
    Row("GRAIN, 0.20", {"target.density": 0.20}),
    Row("GRAIN, 0.05", {"target.density": 0.05}),
    Row("GRAIN, 0.05, margins", {"target.density": 0.05, "distillation.terms": {"margin": {}}}),
    Row("3 layers", LAYERS | {"target.keep": 3}),
    Row("1 layer", LAYERS | {"target.keep": 1}),
)
"""Layers are those that the evidence of GRAIN keeps; both rivals have the steps and the terms of the others."""


def lists(data: Path, runs: Path, questions: int = QUESTIONS, scored: int = SCORED) -> Path:
    """The folder with the lists of both splits, which are made once."""
    folder = runs / "lists"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for split, most in (("train", questions), ("validation", scored)):
            rows = list(_lists(data / "squad" / f"{split}.parquet", NEGATIVES[split], most))
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


def _lists(path: Path, negatives: int, most: int) -> Iterator[dict[str, Any]]:
    """Questions, in a random order, with their context and others of the same file."""
    import numpy as np
    from datasets import Dataset

    rows, generator = Dataset.from_parquet(str(path)), np.random.default_rng(0)
    contexts, questions, own = sorted({*rows["context"]}), rows["question"][:], rows["context"][:]
    for number in generator.permutation(len(rows))[:most].tolist():
        drawn = [contexts[place] for place in generator.choice(len(contexts), negatives + 1, replace=False)]
        others = [context for context in drawn if context != own[number]][:negatives]
        yield {"query": questions[number], "positive": own[number], "negatives": others}


def teacher_of(data: Path, runs: Path) -> Path:
    """The cross-encoder, which is trained once."""
    folder = runs / "teacher-run"
    if not (folder / "teacher").is_dir():
        one(folder, {**SETTINGS, **TEACHER, "data": str(data)}, folder, 1, "teacher")
    return folder / "teacher"


def values_of(data: Path, runs: Path, steps: int = STEPS) -> dict[str, Any]:
    """What all recipes have in common."""
    return {**SETTINGS, "data": str(data), "teacher": str(teacher_of(data, runs)), "training.steps": steps}


@app.command()
def train(
    data: Folder,
    runs: Path = RUNS,
    label: str = "",
    questions: int = QUESTIONS,
    scored: int = SCORED,
    steps: int = STEPS,
    jobs: int = 1,
) -> None:
    """Train the cross-encoder, and do every run that is not finished: those whose label contains a text."""
    base = values_of(lists(data, runs, questions, scored), runs, steps)
    chosen = {
        name: {**base, **row.changed, "seed": seed}
        for row in ROWS
        if label in row.label
        for name, seed in row.folders.items()
    }
    several(runs, chosen, jobs)


@app.command()
def table(data: Folder, runs: Path = RUNS, repeats: int = 10) -> None:
    """Score the finished models and their int8 exports, and time all of them in turn, in as many threads as given."""
    import transformers

    import secateur as sec
    from secateur.report.report import Report
    from secateur.run.recipe import make
    from secateur.run.run_data import RunData

    transformers.logging.set_verbosity_error()
    own = RunData(make(values_of(lists(data, runs), runs)))
    done = {row.label: finished([runs / name for name in row.folders]) for row in ROWS}
    models = {"dense": own.task.load_model(teacher_of(lists(data, runs), runs)).eval()}
    models |= {label: sec.load(folders[0] / "model") for label, folders in done.items() if folders}
    reports = {label: [Report.load(folder) for folder in folders] for label, folders in done.items()}
    with TemporaryDirectory() as folder:
        files = {
            name: _exported(model, own, Path(folder, f"{number}.onnx"))
            for number, (name, model) in enumerate(models.items())
        }
        times = _times(models, files, repeats)
        _print(models, files, reports, times, own)


def _exported(model: Any, data: Any, path: Path) -> Path:
    """The model as an ONNX file in int8, calibrated on rows of training."""
    import secateur as sec
    from secateur.measure.evaluation import batches

    rows = [{key: value for key, value in row.items() if key != "index"} for row in data.train_rows[:256]]
    sec.export(model, path, dtype="int8", calibration=batches(data.task, rows, data.tokenizer, limit=256))
    return path


def _times(models: dict[str, Any], files: dict[str, Path], repeats: int) -> dict[tuple[str, str], str]:
    """Model and runtime -> the median of the milliseconds, and its speed-up; all take turns in this process."""
    import torch

    import secateur as sec

    exports: dict[str, Any] = {f"{name}/int8": path for name, path in files.items()}
    results = sec.benchmark(
        models | exports,
        dense="dense",
        runtimes=["pytorch", "onnxruntime"],
        dtypes=["fp32"],
        shapes=[PAIRS],
        repeats=repeats,
        warmup=2,
        threads=torch.get_num_threads(),
        peak_memory=False,
    )
    print(f"\n{json.dumps(results[0].protocol)}\n")
    first = results[0].latency_ms
    cells = {(one.model, one.runtime): f"{one.latency_ms:.0f} ms, {first / one.latency_ms:.1f}x" for one in results}
    return {
        ((name.removesuffix("/int8"), "int8") if name.endswith("/int8") else (name, runtime)): cell
        for (name, runtime), cell in cells.items()
    }


def _print(
    models: dict[str, Any], files: dict[str, Path], reports: dict[str, Any], times: dict[Any, str], data: Any
) -> None:
    """The table, with MRR@10 of the models and of their exports in int8."""
    from secateur.deploy.export import opened
    from secateur.measure.evaluation import runner_scores, scores_with_error

    print_row(
        [
            "model",
            "MRR@10",
            "nDCG@10",
            "of the cross-encoder's",
            "MRR@10, int8",
            "MB, fp32",
            "MB, int8",
            "PyTorch",
            "ONNX",
            "ONNX int8",
        ]
    )
    print_row(["---"] * 10)
    dense, error = scores_with_error(models["dense"], data.task, data.validation_rows, data.tokenizer)
    for name, model in models.items():
        all_scores = [report.scores for report in reports[name]] if name in reports else [dense]
        quantised = runner_scores(opened(files[name]), data.task, data.validation_rows, data.tokenizer)
        mrr = [scores["mrr@10"] for scores in all_scores]
        print_row(
            [
                name,
                spread(mrr),
                spread([scores["ndcg@10"] for scores in all_scores]),
                f"{sum(mrr) / len(mrr) / dense['mrr@10']:.1%}",
                f"{quantised['mrr@10']:.4f}",
                f"{4e-6 * model.num_parameters():.1f}",
                f"{files[name].stat().st_size / 1e6:.1f}",
                *(times[name, runtime] for runtime in ("pytorch", "onnxruntime", "int8")),
            ]
        )
    print(f"\nstandard error of the cross-encoder's MRR@10 over the questions: {error:.4f}")


if __name__ == "__main__":
    app()
