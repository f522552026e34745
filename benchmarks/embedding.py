"""Sentence embeddings: MiniLM-L6 and MPNet-base at several densities, beside what a user would otherwise take.

    python benchmarks/embedding.py texts --data DIR                 the texts to learn from, and what is scored on
    python benchmarks/embedding.py train --data DIR                 every run of the tables, one folder each
    python benchmarks/embedding.py table --data DIR                 scores, megabytes and latencies, in Markdown
    python benchmarks/embedding.py picture --data DIR               the Pareto picture of a table

`--data` is a folder with `mnli_small`, `qnli_small`, `multi30k`, `sst2`, `stsb` and `squad` (train.parquet and
validation.parquet, with the columns of the hub). MPNet-base is fetched by `python benchmarks/mpnet.py runs/mpnet`.

A run learns from texts without labels; the model is its own teacher. Texts that occur in what is scored are left out.
Settings were chosen on STS-B's validation pairs; reported are its test pairs, and retrieval: SQuAD's validation
questions over the distinct contexts of its validation set and a thousand of its training set. The
rivals: the dense model in int8; its
first three and its first layer, trained with the same terms, texts and steps; and static embeddings in the manner of
model2vec (a vector for each piece, the dense model's of it alone, reduced to 256 dims by PCA, averaged over a text).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import typer
from embedding_rivals import (
    METRICS,
    StaticEmbeddings,
    evaluation_of,
    int8_scores,
    scores_by_metric,
    train_first_layers,
)
from runner import Folder, base_model, finished, print_row, spread

app = typer.Typer(add_completion=False)
RUNS = Path("runs/embedding")
TEXTS, CHOSEN_ON, SIMILARITY, RETRIEVAL = (
    RUNS / name for name in ("texts.txt", "validation.csv", "test.csv", "retrieval")
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
SHAPES = ((1, 32), (32, 128))
MOST = 256
"""Tokens of a text at most, as all-MiniLM-L6-v2 has them."""


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
CORPUS = 1000
"""Contexts of training among those that are searched."""
LAYERS = (3, 1)
"""First layers that a rival keeps."""


# Data


@app.command()
def texts(data: Folder) -> None:
    """Write the texts to learn from, one a line, and what is scored on; nothing that exists is written again."""
    from datasets import Dataset

    if TEXTS.is_file():
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
    others = random.Random(0).sample(sorted({*train["context"]}), CORPUS)
    contexts = {text: number for number, text in enumerate(dict.fromkeys([*validation["context"], *others]))}
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
    if "layers".startswith(label) and "MiniLM-L6".startswith(model) and seed in (-1, 0):
        for layers in LAYERS:
            place = RUNS / "MiniLM-L6" / f"layers-{layers}"
            train_first_layers(values_of("MiniLM-L6", {}), layers, place, SWEEPS[0].folder(0))


# Results


@dataclass(frozen=True)
class Scored:
    """A line of the table: spearman on STS-B's test pairs and nDCG@10 and MRR@10 of retrieval, a list over seeds each.

    Attributes:
        model: the first seed's model, whose size and latency are measured; None for static embeddings.
        megabytes: of its weights, as they are stored.
    """

    label: str
    scores: dict[str, list[float]]
    megabytes: float
    model: Any = None


@app.command()
def table(data: Folder, model: str = "", repeats: int = 20, exports: bool = True) -> None:
    """Score every model that is finished, measure its latencies in one process, and print the table of each model."""
    texts(data)
    for name in (name for name in MODELS if name.startswith(model) and Path(MODELS[name].path).is_dir()):
        lines = list(_lines_of(name))
        times = _times({one.label: one.model for one in lines if one.model is not None}, repeats, exports)
        print(f"\n{name}\n")
        print_row(["model", "seeds", *(f"{metric}, part of dense" for metric in METRICS), "MB", *times])
        print_row(["---"] * (3 + len(METRICS) + len(times)))
        for one in lines:
            cells = [_with_share(one.scores[metric], lines[0].scores[metric]) for metric in METRICS]
            timed = [times[column].get(one.label, "") for column in times]
            print_row([one.label, str(len(one.scores[METRICS[0]])), *cells, f"{one.megabytes:.1f}", *timed])
        _keep(name, lines)


def _lines_of(name: str) -> Iterator[Scored]:
    """The dense model, what is made of it, the runs, and the rivals."""
    from secateur.measure.model_size import disk_bytes
    from secateur.surgery.opening import open_model

    evaluations = [evaluation_of(MODELS[name].path, place, TEXTS) for place in (SIMILARITY, RETRIEVAL)]

    def scored(label: str, folders: list[Path]) -> Scored:
        models = [open_model(folder) for folder in folders]
        own = [_kept_scores(folder, one, evaluations) for folder, one in zip(folders, models, strict=True)]
        by_metric = {metric: [score for one in own for score in one[metric]] for metric in METRICS}
        return Scored(label, by_metric, disk_bytes(folders[0]) / 1e6, models[0])

    dense = scored("dense", [Path(MODELS[name].path)])
    yield dense
    yield Scored("dense, int8 in ONNX", *int8_scores(dense.model, evaluations))
    for one in (one for one in SWEEPS if one.model == name):
        for density in one.densities[0]:
            folders = [one.run(density, seed) for seed, own in one.densities.items() if density in own]
            if folders := finished(folders):
                yield scored(f"{one.label} {density:.2f}", [folder / "model" for folder in folders])
    for layers in LAYERS:
        if (place := RUNS / name / f"layers-{layers}" / "model").is_dir():
            yield scored(f"first {layers} layers", [place])
    static = StaticEmbeddings.of(dense.model, evaluations[0].tokenizer)
    yield Scored("static, 256 dims", static.scores(evaluations), static.nbytes / 1e6)


def _kept_scores(folder: Path, model: Any, evaluations: list[Any]) -> dict[str, list[float]]:
    """The scores of a model, which are kept in a file: a table is made again without scoring again."""
    place = RUNS / "scores" / f"{'-'.join(folder.parts[-4:])}.json"
    if not place.is_file():
        found = scores_by_metric([evaluation.scores(model) for evaluation in evaluations])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(place.read_text(encoding="utf-8"))


def _with_share(scores: list[float], dense: list[float]) -> str:
    return f"{spread(scores)}, {mean(scores) / mean(dense):.1%}"


def _times(models: dict[str, Any], repeats: int, exports: bool) -> dict[str, dict[str, str]]:
    """Column -> label -> milliseconds and the speed-up over the dense model in the same runtime and dtype."""
    import secateur as sec

    runtimes = {("pytorch", "fp32"): "PyTorch"}
    if exports:
        runtimes |= {("onnxruntime", "fp32"): "ONNX", ("openvino", "int8"): "OpenVINO int8"}
    columns: dict[str, dict[str, str]] = {}
    for (runtime, dtype), name in runtimes.items():
        options: dict[str, Any] = {"dense": "dense", "shapes": SHAPES, "repeats": repeats, "peak_memory": False}
        for one in sec.benchmark(models, runtimes=(runtime,), dtypes=(dtype,), **options):
            if (one.runtime, one.dtype) == (runtime, dtype):
                column = columns.setdefault(f"{name} {one.batch} x {one.tokens}", {})
                column[one.model] = f"{one.latency_ms:.2f} ms, {one.speed_up:.1f}x"
    return columns


def _keep(name: str, lines: list[Scored]) -> None:
    """Keep the mean scores and the megabytes for the picture."""
    kept = {one.label: [*(mean(one.scores[metric]) for metric in METRICS), one.megabytes] for one in lines}
    (RUNS / name / "table.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


@app.command()
def picture(output: Path, model: str = "MiniLM-L6") -> None:
    """Draw the scores of a table against megabytes, which `table` has kept."""
    from matplotlib.figure import Figure

    kept = json.loads((RUNS / model / "table.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(10, 4), layout="constrained")
    for number, metric in enumerate(METRICS[:2]):
        axes = figure.add_subplot(1, 2, number + 1)
        axes.set(xscale="log", xlabel="MB", ylabel=metric, title=model)
        axes.grid(True, alpha=0.3)
        for label, values in kept.items():
            axes.plot(values[-1], values[number], "o" if "GRAIN" in label else "s")
            axes.annotate(label, (values[-1], values[number]), fontsize=7, xytext=(4, 3), textcoords="offset points")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


if __name__ == "__main__":
    app()
