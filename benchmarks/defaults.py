"""MiniLM-L6 pruned by the defaults of `secateur prune`, on twelve data sets of four kinds and of 300 to 67,000 rows.

    python benchmarks/defaults.py train    --data DIR    the commands of each data set, one folder for each
    python benchmarks/defaults.py teachers --data DIR    teachers at each of several learning rates and lengths
    python benchmarks/defaults.py table    --data DIR    the tables, in Markdown

`--data` is a folder with `sst2`, `cola`, `rte`, `mrpc`, `stsb`, `conll2003` and `squad` (train.parquet and
validation.parquet, with the columns of the hub). A command names the model, the data, the task where it is no
classification, and what is asked for: densities, one density with another seed, a part of the teacher's score, or, when
that has chosen a density, those beside it in the walk. Everything else is a default, which is chosen without the
validation rows. Finished runs are not repeated. What a command expects is written beside its folder, before it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import typer
from runner import CONLL, Folder, base_model, finished, one, print_row, spread

app = typer.Typer(add_completion=False)
RUNS = Path("runs/defaults")
DENSITIES, DENSITY, KEEP = ("0.2", "0.1", "0.05"), "0.05", "0.97"
RATES, EPOCHS = (5e-5, 1e-4, 2e-4, 4e-4), (3, 10)
"""Of the teachers that are compared with those that the defaults train."""


@dataclass(frozen=True)
class Set:
    """A data set: its folder, and the keys of a recipe that say how to read it."""

    folder: str
    keys: dict[str, Any] = field(default_factory=dict)

    def values(self, data: Path) -> dict[str, Any]:
        """The keys of a recipe that say which model and which data."""
        return {"model": base_model(), "data.source": str(data / self.folder), **self.keys}

    def words(self, data: Path) -> list[str]:
        """The same as words of the command line."""
        model, *others = self.values(data).items()
        return [model[1], *(word for key, value in others for word in ("--set", f"{key}={json.dumps(value)}"))]


NAMES: dict[str, Any] = {"data.task": "tokens", "data.labels": CONLL}
SETS = {
    "SST-2": Set("sst2"),
    "SST-2, 2,500 rows": Set("sst2", {"data.rows": 2500}),
    "SST-2, 300 rows": Set("sst2", {"data.rows": 300}),
    "CoLA": Set("cola", {"data.metric": "matthews"}),
    "RTE": Set("rte"),
    "MRPC": Set("mrpc"),
    "STS-B": Set("stsb"),
    "STS-B, 1,000 rows": Set("stsb", {"data.rows": 1000}),
    "CoNLL-2003": Set("conll2003", NAMES),
    "CoNLL-2003, 3,000 rows": Set("conll2003", NAMES | {"data.rows": 3000}),
    "CoNLL-2003, 300 rows": Set("conll2003", NAMES | {"data.rows": 300}),
    "SQuAD, 5,000 rows": Set("squad", {"data.task": "questions", "data.rows": 5000}),
}


def place(name: str) -> Path:
    """The folder of a data set's runs."""
    return RUNS / name.lower().replace(",", "").replace(" ", "-")


def commands(name: str, data: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder and the options of each command; later ones take the teacher that the first one has trained.

    The last one depends on the density that is chosen by the one before it.
    """
    own, folder = SETS[name].words(data), place(name)
    taught = [*own, "--teacher", str(folder / "densities" / "teacher")]
    yield folder / "densities", [*own, "--density", ",".join(DENSITIES)]
    yield folder / "seed-1", [*taught, "--density", DENSITY, "--seed", "1"]
    yield folder / "kept", [*taught, "--keep-score", KEEP]
    if steps := _beside(folder / "kept"):
        yield folder / "walk", [*taught, "--density", ",".join(steps)]


def _beside(kept: Path) -> list[str]:
    """The next larger density of the walk than the one that a run has chosen, and the next two smaller ones.

    By these it shows whether the smallest density that keeps the score is within one step; none before it is finished.
    """
    from secateur.run.score_goal import LADDER

    if not finished([kept]):
        return []
    chosen = _place_in_walk(_report(kept))
    return [f"{LADDER[step]:g}" for step in (chosen - 1, chosen + 1, chosen + 2) if 0 <= step < len(LADDER)]


def _place_in_walk(report: Any) -> int:
    """The number of the step of the walk at the density of a run, the largest first."""
    from secateur.run.score_goal import LADDER

    return LADDER.index(report.recipe["target"]["density"])


@app.command()
def train(data: Folder, only: str = "", part: str = "") -> None:
    """Do the commands that are not finished: those of sets whose name contains a text, or of one part of each."""
    for name in SETS:
        for folder, words in commands(name, data):
            if only in name and part in folder.name:
                _prune(folder, words)


def _prune(folder: Path, words: list[str]) -> None:
    """A command of `secateur prune`, with its output in a log beside its folder; a finished run is only read."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "secateur", "prune", *words, "--output", str(folder)]
    with folder.with_name(f"{folder.name}.log").open("a") as log:
        if not folder.exists():
            asked = subprocess.run([*command, "--dry-run", "--json"], stdout=PIPE, stderr=log, check=False)
            _expectation(folder).write_bytes(asked.stdout)
        failed = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if failed not in (0, NOT_KEPT):
        print(f"{folder} failed: see {folder}.log", file=sys.stderr)


def _expectation(folder: Path) -> Path:
    """The file of what a command expected before it ran, in JSON."""
    return folder.with_name(f"{folder.name}.expected.json")


NOT_KEPT = 3
"""The exit code of a run that did not keep the score that was asked for."""


@app.command()
def teachers(data: Folder, threads: int = 1, only: str = "") -> None:
    """Train a teacher at each learning rate and length, on all training rows, and print their validation scores."""
    print_row(["data", "defaults", *(f"{epochs} epochs, {rate:g}" for epochs in EPOCHS for rate in RATES)])
    print_row(["---"] * (2 + len(RATES) * len(EPOCHS)))
    for name in SETS:
        if only in name:
            cells = [_score_of_teacher(name, data, rate, epochs, threads) for epochs in EPOCHS for rate in RATES]
            own = [_teacher_score(folder) for folder in finished([place(name) / "densities" / DENSITY])]
            print_row([name, *(own or ["-"]), *cells])


def _teacher_score(folder: Path) -> str:
    report = _report(folder)
    return f"{report.teacher_scores[report.metric]:.4f}"


def _score_of_teacher(name: str, data: Path, rate: float, epochs: int, threads: int) -> str:
    """The score of a teacher with a named learning rate and length, which is trained unless it exists."""
    from secateur.run.recipe import make
    from secateur.run.run_data import RunData
    from secateur.run.teacher_scores import kept_scores

    named = {"training.teacher_learning_rate": rate, "training.teacher_epochs": epochs}
    values = SETS[name].values(data) | named
    folder = place(name) / f"teacher-{epochs}-{rate:g}"
    if not (folder / "teacher").is_dir():
        one(folder, values, folder, threads, "teacher")
    if not (folder / "teacher").is_dir():
        return "-"
    run_data = RunData(make(values))
    scores = kept_scores(run_data, run_data.task.load_model(folder / "teacher").eval(), folder)
    return f"{scores[run_data.task.metric]:.4f}"


@app.command()
def table(data: Folder) -> None:
    """Print the scores and retentions of every set whose commands are finished, and the marks of what they show.

    The minutes are those that each command expected, and those that it took. The smallest density of the walk that
    keeps the part of the score is that of runs of the whole length.
    """
    heads = [*DENSITIES[:2], f"{DENSITY}, two seeds", f"kept {KEEP}", f"smallest that keeps {KEEP}"]
    print_row(["data", "constant", "teacher", *heads, "minutes, expected / taken"])
    print_row(["---"] * 9)
    for name in SETS:
        folder = place(name)
        done = finished([folder / "densities" / density for density in DENSITIES])
        if len(done) == len(DENSITIES):
            print_row([name, *_cells(folder, done)])


def _cells(folder: Path, done: list[Path]) -> list[str]:
    reports = [_report(one) for one in done]
    first, lowest = reports[0], [reports[-1], *map(_report, finished([folder / "seed-1"]))]
    kept = [_report(one) for one in finished([folder / "kept"])]
    scores, retentions = ([pair[number] for pair in map(_result, lowest)] for number in (0, 1))
    return [
        "-" if first.baseline is None else f"{first.baseline:.4f}",
        f"{first.teacher_scores[first.metric]:.4f}",
        *("{:.4f} ({:.1f}%)".format(*_result(report)) for report in reports[:-1]),
        f"{spread(scores)} ({spread(retentions, 1)}%)",
        *(["{:.4f} ({:.1f}%)".format(*_result(one)) + f" at {one.density['prunable']:.2f}" for one in kept] or ["-"]),
        _smallest(kept, _runs(folder / "walk")),
        ", ".join(filter(None, (_minutes(folder / part) for part in ("densities", "seed-1", "kept", "walk")))),
    ]


def _result(report: Any) -> tuple[float, float]:
    """The score, and the part of the teacher's in percent."""
    return report.scores[report.metric], 100 * (report.retention or 0.0)


def _smallest(kept: list[Any], beside: list[Any]) -> str:
    """The smallest density of the walk that keeps the part of the score, and its steps from the one that was chosen."""
    if not kept or not beside:
        return "-"
    (chosen,) = map(_place_in_walk, kept)
    keeps = [one for one in (*kept, *beside) if (one.retention or 0.0) >= float(KEEP)]
    if not keeps:
        return "none of these"
    smallest = max(keeps, key=_place_in_walk)
    return f"{smallest.recipe['target']['density']:g} ({_place_in_walk(smallest) - chosen:+d} steps)"


def _runs(folder: Path) -> list[Any]:
    """The reports of a command: of its folder, or of each density in it."""
    return [_report(one) for one in finished([folder, *sorted(folder.glob("*/"))])]


def _minutes(folder: Path) -> str:
    """What a command expected and what it took, over the stages of all its runs; nothing if it is not finished."""
    if not (runs := _runs(folder)):
        return ""
    taken = sum(seconds for report in runs for seconds in report.seconds.values()) / 60
    place = _expectation(folder)
    stages = json.loads(place.read_text())["expected"]["stages"] if place.is_file() and place.stat().st_size else []
    expected = f"{sum(stage['seconds'] or 0.0 for stage in stages) / 60:.0f}" if stages else "-"
    return f"{expected} / {taken:.0f}"


def _report(folder: Path) -> Any:
    from secateur.report.report import Report

    return Report.load(folder)


if __name__ == "__main__":
    app()
