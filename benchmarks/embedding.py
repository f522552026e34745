"""Sentence embeddings: MiniLM-L6 and MPNet-base at several densities, beside what a user would otherwise take.

    python benchmarks/embedding.py texts --data DIR                 the texts to learn from, and what is scored on
    python benchmarks/embedding.py train --data DIR                 every run of the tables, one folder each
    python benchmarks/embedding.py table --data DIR                 scores, megabytes and latencies, in Markdown
    python benchmarks/embedding.py picture OUTPUT.png               scores of a table over latencies and megabytes

`--data` is a folder with `mnli_small`, `qnli_small`, `multi30k`, `sst2`, `stsb` and `squad` (train.parquet and
validation.parquet, with the columns of the hub). MPNet-base is fetched by `python benchmarks/mpnet.py runs/mpnet`.
`train` and `table` take `--model MiniLM` or `--model MPNet`.

A run learns from texts without labels; the model is its own teacher. Texts that occur in what is scored are left out.
Settings were chosen on STS-B's validation pairs; reported are its test pairs, and retrieval: SQuAD's validation
questions over all distinct contexts of its validation and training sets. The rivals: the dense model in int8; its first
three layers and its first one, trained with the same terms, texts and steps; and static embeddings in the manner of
model2vec (a vector for each piece, the dense model's of it alone, reduced to 256 dims by PCA, averaged over a text).
Every model is timed in PyTorch and ONNX Runtime, and scored and timed in int8 in ONNX Runtime and OpenVINO, calibrated
on 256 training texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from embedding_rivals import train_first_layers
from runner import Folder, base_model, finished

app = typer.Typer(add_completion=False)
RUNS = Path("runs/embedding")
TEXTS, CHOSEN_ON, SIMILARITY, RETRIEVAL = (
    RUNS / name for name in ("texts.txt", "validation.csv", "test.csv", "retrieval-all")
)
COLUMNS = {
    "mnli_small": ("premise", "hypothesis"),
    "qnli_small": ("question", "sentence"),
    "multi30k": ("en",),
    "sst2": ("sentence",),
    "squad": ("question", "context"),
    "stsb": ("sentence1", "sentence2"),
}
"""Folder of a set -> the columns of its training texts."""


@dataclass(frozen=True)
class Model:
    """A dense model, and the settings of its runs."""

    path: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """One pruning of a model to several densities: its label, what it changes, and the densities for each seed."""

    label: str
    model: str
    densities: dict[int, tuple[float, ...]]
    changed: dict[str, Any] = field(default_factory=dict)

    def folder(self, seed: int) -> Path:
        """The folder of the sweep, or of its only run."""
        return RUNS / self.model / f"{self.label.lower()}-{seed}"

    def run(self, density: float, seed: int) -> Path:
        """The folder of the run of one density."""
        return self.folder(seed) / str(density) if len(self.densities[seed]) > 1 else self.folder(seed)


SHARED: dict[str, Any] = {
    "data": str(TEXTS),
    "data.task": "embedding",
    "data.evaluation": str(CHOSEN_ON),
    "data.max_length": 128,
    "training.batch_size": 32,
    "training.warmup": 0.05,
    "training.evaluations": 0,
    "training.checkpoints": 1,
    "measurement.shapes": [],
    "method.begin": 0.01,
    "method.end": 0.15,
    "distillation.hidden_projection": False,
}
MODELS = {
    "MiniLM-L6": Model(
        base_model(),
        {
            "data.rows": 64000,
            "training.steps": 4000,
            "training.learning_rate": 3e-4,
            "method.end": 0.1,
            "distillation.hidden": [2, 4, 6],
        },
    ),
    "MPNet-base": Model("runs/mpnet", {"data.rows": 32000, "training.steps": 1000, "distillation.hidden": [4, 8, 12]}),
}
SWEEPS = (
    Sweep("GRAIN", "MiniLM-L6", {0: (0.4, 0.2, 0.1, 0.05), 1: (0.2, 0.05)}),
    Sweep("GRAIN", "MPNet-base", {0: (0.2, 0.05)}),
    Sweep("CoFi", "MiniLM-L6", {0: (0.2,)}, {"method": "cofi"}),
)
LAYERS = (3, 1)
"""First layers that a rival keeps."""


# Data


@app.command()
def texts(data: Folder) -> None:
    """Write the texts to learn from, one a line, and what is scored on; nothing that exists is written again."""
    from datasets import Dataset

    if TEXTS.is_file() and (RETRIEVAL / "qrels.tsv").is_file():
        return
    RETRIEVAL.mkdir(parents=True, exist_ok=True)
    scored = {text for text in _scored(data)}
    found: dict[str, None] = {}
    for folder, columns in COLUMNS.items():
        rows = Dataset.from_parquet(str(data / folder / "train.parquet"))
        for column in columns:
            found |= dict.fromkeys(" ".join(text.split()) for text in rows[column])
    passages = "\n".join(text for text in scored if len(text) > 200)
    kept = [text for text in found if text and text not in scored and not (len(text) > 40 and text in passages)]
    TEXTS.write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"{len(kept):,} texts, {len(found) - len(kept):,} left out")


def _scored(data: Path) -> Iterator[str]:
    """Write what is scored on, and yield its texts, but for the contexts of training questions."""
    from datasets import Dataset

    for split, path in (("validation", CHOSEN_ON), ("test", SIMILARITY)):
        rows = Dataset.from_parquet(str(data / "stsb" / f"{split}.parquet"))
        rows.select_columns(["sentence1", "sentence2", "label"]).to_csv(path, index=False)
        yield from (text for name in ("sentence1", "sentence2") for text in rows[name])
    train, validation = (Dataset.from_parquet(str(data / "squad" / f"{s}.parquet")) for s in ("train", "validation"))
    distinct = dict.fromkeys([*validation["context"], *train["context"]])
    contexts = {text: number for number, text in enumerate(distinct)}
    _lines("corpus", ({"_id": f"d{number}", "text": text} for text, number in contexts.items()))
    _lines("queries", ({"_id": f"q{number}", "text": text} for number, text in enumerate(validation["question"])))
    pairs = [(f"q{number}", f"d{contexts[text]}", "1") for number, text in enumerate(validation["context"])]
    rows = [("query-id", "corpus-id", "score"), *pairs]
    (RETRIEVAL / "qrels.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    yield from (" ".join(text.split()) for text in [*validation["question"], *validation["context"]])


def _lines(name: str, rows: Iterator[dict[str, str]]) -> None:
    (RETRIEVAL / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# Training


def values_of(model: str, changed: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a sweep, without its densities and its seed."""
    own = MODELS[model]
    return {**SHARED, "model": own.path, **own.settings, **changed}


@app.command()
def train(data: Folder, model: str = "", label: str = "", seed: int = -1) -> None:
    """Do every run that is not finished: those of one model, of one label (GRAIN, CoFi or layers), or of one seed."""
    from secateur.run.density_sweep import sweep
    from secateur.run.pipeline import run
    from secateur.run.recipe import make

    texts(data)
    for one in (one for one in SWEEPS if one.model.startswith(model) and one.label.startswith(label)):
        for number, densities in one.densities.items():
            if seed in (-1, number):
                wanted = densities if len(densities) > 1 else densities[0]
                values = values_of(one.model, one.changed) | {"target.density": wanted, "seed": number}
                (sweep if len(densities) > 1 else run)(make(values), one.folder(number))
    for name in (name for name in MODELS if name.startswith(model)):
        if "layers".startswith(label) and seed in (-1, 0):
            shared = RUNS / name / "grain-0"  # with the teacher's outputs, where a sweep has computed them
            for layers in LAYERS:
                train_first_layers(values_of(name, {}), layers, RUNS / name / f"layers-{layers}", shared)


# Results


@app.command()
def table(data: Folder, model: str = "", repeats: int = 20, exports: bool = True) -> None:
    """Score every model that is finished in every runtime, time all in one process, and print each model's table."""
    from embedding_rivals import evaluation_of
    from embedding_table import FILES, Table, keep, print_table

    texts(data)
    for name in (name for name in MODELS if name.startswith(model) and Path(MODELS[name].path).is_dir()):
        evaluations = [evaluation_of(MODELS[name].path, place, TEXTS) for place in (SIMILARITY, RETRIEVAL)]
        with TemporaryDirectory() as work:
            own = Table(dict(_models_of(name)), evaluations, RUNS / "scores")
            lines = own.lines(Path(work), repeats, tuple(FILES) if exports else ())
        print(f"\n{name}\n")
        print_table(lines)
        (RUNS / name).mkdir(parents=True, exist_ok=True)
        keep(lines, RUNS / name / "table.json")


def _models_of(name: str) -> Iterator[tuple[str, list[Path]]]:
    """The label of each model, and the folders of its seeds: the dense one, the runs, and the first layers."""
    yield "dense", [Path(MODELS[name].path)]
    for one in (one for one in SWEEPS if one.model == name):
        for density in one.densities[0]:
            folders = [one.run(density, seed) for seed, own in one.densities.items() if density in own]
            if folders := finished(folders):
                yield f"{one.label} {density:.2f}", [folder / "model" for folder in folders]
    for layers in LAYERS:
        if (place := RUNS / name / f"layers-{layers}" / "model").is_dir():
            yield f"first {layers} layers" if layers > 1 else "first layer", [place]


@app.command()
def picture(output: Path, model: str = "MiniLM-L6", shape: str = "32 x 128") -> None:
    """Draw the scores of a table, which `table` has kept, over latencies in each runtime, and over megabytes."""
    from embedding_table import draw, kept

    draw(kept(RUNS / model / "table.json"), output, model, shape)


if __name__ == "__main__":
    app()
