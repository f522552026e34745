"""Cuts without training: Fisher, OBS and magnitude at several densities, with and without the refit, and their minutes.

    python benchmarks/fast.py measure --data DIR --teacher FOLDER     every cut, in one process; appends to a file
    python benchmarks/fast.py table                                  the table, in Markdown

`--data` is a folder with train.parquet and validation.parquet, `--teacher` a model that is fine-tuned for them. Units
are heads and neurons. A cut looks at 512 training rows, drawn by the seed; scored are the validation rows. Cuts that
the file holds are not repeated. Seconds are those of choosing, cutting and refitting, without the scoring.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import typer
from runner import Folder, print_row, spread

app = typer.Typer(add_completion=False)
FILE = Path("runs/fast/cuts.jsonl")
DENSITIES = (0.8, 0.6, 0.5, 0.4)
METHODS = {"fisher": (0, 1, 2), "obs": (0, 1, 2), "magnitude": (0,)}
"""Method -> its seeds with the refit; without it only the first."""
LENGTH = 128


@app.command()
def measure(data: Folder, teacher: Folder, file: Path = FILE, method: str = "", density: float = 0.0) -> None:
    """Do every cut that is not in the file yet: those of one method or of one density, if given."""
    from secateur.measure.evaluation import encoded, fitted_to, scores
    from secateur.surgery.opening import open_model
    from secateur.tasks.task import open_task

    file.parent.mkdir(parents=True, exist_ok=True)
    done = {tuple(one[key] for key in KEY) for one in _read(file)}
    dense = open_model(str(teacher))
    task = open_task("classification", str(data), {}, metric=None, seed=0, rows=None)
    task, tokenizer = fitted_to(task, dense, str(teacher))
    rows = encoded(task, "validation", tokenizer, LENGTH)
    wanted = [
        (name, amount, refit, seed)
        for amount in DENSITIES
        for name, seeds in METHODS.items()
        for refit in (True, False)
        for seed in seeds[: None if refit else 1]
        if method in name and density in (0.0, amount) and (name, amount, refit, seed) not in done
    ]
    for one in [("dense", 1.0, False, 0)] * (not done) + wanted:
        small, seconds = (dense, 0.0) if one[0] == "dense" else _cut(dense, task, tokenizer, *one)
        found = {**dict(zip(KEY, one, strict=True)), "score": scores(small, task, rows, tokenizer)[task.metric]}
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**found, "seconds": round(seconds, 1)}) + "\n")


KEY = ("method", "density", "refit", "seed")


def _cut(dense: Any, task: Any, tokenizer: Any, name: str, density: float, refit: bool, seed: int) -> tuple[Any, float]:
    """The cut model, and the seconds that it took."""
    from secateur.run.calibration import Calibration
    from secateur.run.post_training import cut_without_training
    from secateur.run.recipe import make_group

    begun = time.perf_counter()
    calibration = Calibration.sampled(task, tokenizer, LENGTH, seed=seed, refit=refit)
    values = {"target.density": density, "method.name": name, "target.units": ["head", "ffn"]}
    groups = (make_group(group, values) for group in ("target", "method"))
    small, _ = cut_without_training(dense, *groups, calibration=calibration)
    return small, time.perf_counter() - begun


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


@app.command()
def table(file: Path = FILE) -> None:
    """Print the table: a row for each method, with and without the refit, and a column for each density."""
    cuts = _read(file)
    dense = next(one["score"] for one in cuts if one["method"] == "dense")
    found: dict[tuple[str, bool], dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for one in cuts:
        found[one["method"], one["refit"]][one["density"]].append(one)
    print_row(["method", "refit", "seeds", *(f"{density:.1f}" for density in DENSITIES), "seconds"])
    print_row(["---"] * (4 + len(DENSITIES)))
    for (name, refit), by_density in sorted(found.items()):
        if name != "dense":
            cells = [_cell([one["score"] for one in by_density[density]], dense) for density in DENSITIES]
            seconds = [one["seconds"] for own in by_density.values() for one in own]
            count = max(len(own) for own in by_density.values())
            times = f"{min(seconds):.0f} to {max(seconds):.0f}"
            print_row([name, "yes" if refit else "no", str(count), *cells, times])
    print(f"\nThe dense model: {dense:.4f}.")


def _cell(scores: list[float], dense: float) -> str:
    return f"{spread(scores)}, {sum(scores) / len(scores) / dense:.1%}" if scores else ""


if __name__ == "__main__":
    app()
