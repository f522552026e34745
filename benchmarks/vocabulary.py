"""MiniLM-L6 at 5%, with all pieces of its vocabulary and with those of the task: score, bytes and latency.

    python benchmarks/vocabulary.py train --data DIR --teacher DIR      every run of the tables, one folder each
    python benchmarks/vocabulary.py table --data DIR --teacher DIR      scores, sizes and latencies, in Markdown

`--data` is a folder with `sst2`, `conll2003` and `squad` (train.parquet and validation.parquet, with the columns of the
hub); `--teacher` is MiniLM-L6 fine-tuned on SST-2. The teachers of the other tasks are trained once, first. All runs of
a task have the same number of steps. Finished runs are not repeated. What needs no training is made of the finished
models by `table`: the vocabulary of the task, rows in int8, and weights in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import typer
from rounds import SHARED, TASKS, Row, name_of
from runner import Folder, finished, one, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/vocabulary")
GRAIN: dict[str, Any] = {"target.density": 0.05}
TASK: dict[str, Any] = GRAIN | {"vocabulary": "task"}
ROWS = (
    Row("whole", GRAIN, (0, 1, 2)),
    Row("whole, rank", GRAIN | {"target.embedding_rank": 128}, (0, 1, 2)),
    Row("task", TASK),
)
"""What is trained. With the vocabulary of the task the weights of a run are those with the whole one."""
DATA = ("sst2", "names", "questions")
SHAPES = ((1, 32), (8, 128))
EXPORTS = {"ONNX": (".onnx", "fp32"), "ONNX int8": (".onnx", "int8"), "OpenVINO int8": (".xml", "int8")}
"""Column -> the suffix and the dtype of the file."""


@dataclass(frozen=True)
class Variant:
    """A model that is made of a trained one: with the vocabulary of the task, and with fewer bits."""

    label: str
    of: str
    pieces: bool = True
    embeddings: str = "fp32"
    dtype: str = "fp32"


VARIANTS = (
    Variant("whole", "whole", pieces=False),
    Variant("task, in the run", "task"),
    Variant("task", "whole"),
    Variant("task, int8 rows", "whole", embeddings="int8"),
    Variant("task, int8 rows, others bf16", "whole", embeddings="int8", dtype="bf16"),
    Variant("whole, rank 128", "whole, rank", pieces=False),
    Variant("whole, rank 128, int8 rows", "whole, rank", pieces=False, embeddings="int8"),
    Variant("whole, rank 128, int8 rows, others bf16", "whole, rank", pieces=False, embeddings="int8", dtype="bf16"),
    Variant("task, rank 128", "whole, rank"),
    Variant("task, rank 128, int8 rows", "whole, rank", embeddings="int8"),
    Variant("task, rank 128, int8 rows, others bf16", "whole, rank", embeddings="int8", dtype="bf16"),
)


def teacher_of(task: str, data: Path, sst2: Path) -> Path:
    """The teacher of a task: that of SST-2 is `sst2`; the others are trained here, once."""
    if task == "sst2":
        return sst2
    folder, own = RUNS / task / "teacher-run", TASKS[task]
    if not (folder / "teacher").is_dir():
        values = {**SHARED, **own.settings, **own.teacher, "data": str(data / own.folder)}
        one(folder, values, folder, 1, "teacher")
    return folder / "teacher"


def values_of(task: str, data: Path, teacher: Path) -> dict[str, Any]:
    """What all recipes of a task have in common."""
    own = TASKS[task]
    return {**SHARED, **own.settings, "data": str(data / own.folder), "teacher": str(teacher_of(task, data, teacher))}


def seeds_of(task: str, row: Row) -> tuple[int, ...]:
    """The seeds of a row."""
    return row.seeds if task == "sst2" else row.seeds[:1]


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 1, task: str = "", label: str = "", seed: int = -1) -> None:
    """Do every run that is not finished: those of one task, of one label, or of one seed."""
    for name in (name for name in DATA if name.startswith(task)):
        base = values_of(name, data, teacher)
        runs = {
            name_of(row, number): {**base, **row.changed, "seed": number}
            for row in ROWS
            for number in seeds_of(name, row)
            if seed in (-1, number) and label in ("", row.label)
        }
        several(RUNS / name, runs, jobs)


@app.command()
def table(data: Folder, teacher: Folder, task: str = "", repeats: int = 20, exports: bool = True) -> None:
    """Score every variant on the validation rows, and measure that of the first seed: its files, and its latency."""
    import transformers

    transformers.logging.set_verbosity_error()
    for name in (name for name in DATA if name.startswith(task)):
        print(f"\n{name}\n")
        print_row(["variant", "seeds", "score", "of the teacher's", "pieces", "PyTorch", *EXPORTS, "1 x 32", "8 x 128"])
        print_row(["---"] * (8 + len(EXPORTS)))
        for cells in _rows(name, data, teacher, repeats, exports):
            print_row(cells)


def _rows(task: str, data: Path, teacher: Path, repeats: int, exports: bool) -> Iterator[list[str]]:
    """The cells of each variant of a task of which a run is finished."""
    import secateur as sec
    from secateur.run.recipe import make
    from secateur.run.vocabulary_data import data_of

    own = data_of(make(values_of(task, data, teacher) | TASK))
    dense = own.task.load_model(teacher_of(task, data, teacher)).eval()
    best = _scores(own.whole, dense)[own.task.metric]
    size = f"{4e-6 * dense.num_parameters():.1f}"
    yield ["teacher", "", f"{best:.4f}", "100.0%", f"{dense.config.vocab_size:,}", size]
    for variant in VARIANTS:
        row = next(row for row in ROWS if row.label == variant.of)
        folders = finished([RUNS / task / name_of(row, seed) for seed in seeds_of(task, row)])
        models = [_made(sec.load(folder / "model"), variant, own) for folder in folders]
        if models:
            rows = own if variant.pieces else own.whole
            scores = [_scores(rows, model)[own.task.metric] for model in models]
            times = [sec.measure(models[0], dense, batch=b, tokens=n, repeats=repeats) for b, n in SHAPES]
            share, pieces = f"{mean(scores) / best:.1%}", f"{models[0].config.vocab_size:,}"
            cells = [variant.label, str(len(models)), spread(scores), share, pieces]
            yield [*cells, *_sizes(models[0], variant, rows, exports), *timings(times, digits=2)]


def _made(model: Any, variant: Variant, data: Any) -> Any:
    """A variant of a trained model, with the values that its file holds."""
    from secateur.surgery.storage import as_stored
    from secateur.surgery.vocabulary.pruning import with_pieces

    if variant.pieces and model.config.vocab_size > len(data.vocabulary):
        model = with_pieces(model, data.vocabulary)
    return as_stored(model, dtype=variant.dtype, embeddings=variant.embeddings).eval()


def _scores(data: Any, model: Any) -> dict[str, float]:
    from secateur.measure.evaluation import scores

    return scores(model, data.task, data.validation_rows, data.tokenizer)


def _sizes(model: Any, variant: Variant, data: Any, exports: bool) -> list[str]:
    """MB of the weights as PyTorch loads them, and of each export with its score; int8 is calibrated."""
    import secateur as sec
    from secateur.deploy.export import opened
    from secateur.measure.evaluation import batches, runner_scores
    from secateur.measure.model_size import disk_bytes

    with TemporaryDirectory() as folder:
        sec.save(model, Path(folder, "saved"), tokenizer=data.tokenizer, store=variant.dtype)
        cells = [f"{disk_bytes(Path(folder, 'saved')) / 1e6:.1f}"]
        ranges = batches(data.task, data.train_rows[:256], data.tokenizer, limit=256) if exports else None
        for name, (suffix, dtype) in (EXPORTS if exports else {}).items():
            path = Path(folder, name.replace(" ", "-") + suffix)
            written = sec.export(model, path, dtype=dtype, calibration=ranges if dtype == "int8" else None)
            run = opened(path)
            score = runner_scores(run, data.task, data.validation_rows, data.tokenizer)[data.task.metric]
            cells.append(f"{written.bytes / 1e6:.1f} ({score:.4f})")
    return cells


if __name__ == "__main__":
    app()
