"""The table of `embedding.py`: every model in every runtime with its scores, megabytes and latencies, and its picture.

Models in int8 have ranges of activations that were found on `CALIBRATED` texts of training, drawn by a seed, in both
runtimes: the scores are then those of any batch size. The files that are scored are those that are timed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from embedding_rivals import METRICS, Evaluated, StaticEmbeddings, scores_by_metric
from runner import print_row, spread

SHAPES = ((1, 32), (32, 128))
CALIBRATED = 256
FILES = {"ONNX": ("onnx", "fp32"), "ONNX int8": ("onnx", "int8"), "OpenVINO int8": ("xml", "int8")}
"""Runtime in the table -> suffix and dtype of its files; PyTorch comes before these."""
PYTORCH = "PyTorch"
STATIC = "static, 256 dims"


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        scores: spearman on STS-B's test pairs and nDCG@10 and MRR@10 of retrieval, a list over seeds each.
        megabytes: of the weights, as they are stored.
        ms: "batch x tokens" -> median latency; empty for static embeddings.
    """

    model: str
    runtime: str
    scores: dict[str, list[float]]
    megabytes: float
    ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What makes the table of one dense model.

    Attributes:
        folders: label -> the folders of its models, one for each seed; the first label is the dense model's.
        evaluations: of pairs, and of retrieval.
        scores: where the scores that are known are kept.
    """

    folders: Mapping[str, Sequence[Path]]
    evaluations: Sequence[Evaluated]
    scores: Path

    def lines(self, work: Path, repeats: int, runtimes: Sequence[str] = tuple(FILES)) -> list[Line]:
        """Score every model in every runtime, and time all of them in turn, those of the first seed.

        Args:
            work: an empty folder for exported files.
            runtimes: of `FILES`, besides PyTorch.
        """
        from secateur.measure.model_size import disk_bytes
        from secateur.surgery.opening import open_model

        models = {label: open_model(own[0]).eval() for label, own in self.folders.items()}
        exported = {(label, name): self._export(models[label], name, work) for label in models for name in runtimes}
        times = _times(models, exported, repeats)
        found = []
        for label, own in self.folders.items():
            scores = scores_by_metric([one for folder in own for one in self._of_model(folder)])
            found.append(Line(label, PYTORCH, scores, disk_bytes(own[0]) / 1e6, times[label, PYTORCH]))
            for name in runtimes:
                path, size = exported[label, name]
                in_file = scores if FILES[name][1] == "fp32" else scores_by_metric(self._of_file(own[0], name, path))
                found.append(Line(label, name, in_file, size, times[label, name]))
        static = StaticEmbeddings.of(next(iter(models.values())), self.evaluations[0].tokenizer)
        return [*found, Line(STATIC, "table", static.scores(self.evaluations), static.nbytes / 1e6)]

    def _export(self, model: Any, runtime: str, work: Path) -> tuple[Path, float]:
        """The file of a model, and its megabytes."""
        import secateur as sec

        suffix, dtype = FILES[runtime]
        path = work / str(len(list(work.iterdir()))) / f"model.{suffix}"
        path.parent.mkdir()
        texts = self.evaluations[0].calibration(CALIBRATED) if dtype == "int8" else None
        return path, sec.export(model, path, dtype=dtype, calibration=texts).bytes / 1e6

    def _of_model(self, folder: Path) -> list[dict[str, float]]:
        from secateur.surgery.opening import open_model

        def scored() -> list[dict[str, float]]:
            model = open_model(folder)
            return [one.scores(model) for one in self.evaluations]

        return self._kept(folder, PYTORCH, scored)

    def _of_file(self, folder: Path, runtime: str, path: Path) -> list[dict[str, float]]:
        from secateur.deploy.export import opened

        return self._kept(folder, runtime, lambda: [one.scores_of_runner(opened(path)) for one in self.evaluations])

    def _kept(self, folder: Path, runtime: str, scored: Any) -> list[dict[str, float]]:
        """Scores of weights in a runtime on these evaluations, which are computed once."""
        digest = hashlib.sha256(runtime.encode())
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(path.read_bytes())
        for one in self.evaluations:
            digest.update(one.task.fingerprint("validation").encode())
        place = self.scores / f"{'-'.join(folder.parts[-4:])}-{digest.hexdigest()[:12]}.json"
        if not place.is_file():
            found = scored()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(found), encoding="utf-8")
        return json.loads(place.read_text(encoding="utf-8"))


def _times(
    models: Mapping[str, Any], exported: Mapping[tuple[str, str], tuple[Path, float]], repeats: int
) -> dict[tuple[str, str], dict[str, float]]:
    """Label and runtime -> shape -> milliseconds, of all models and files in turn."""
    import secateur as sec

    names = {f"{label}, {runtime}": (label, runtime) for label, runtime in exported}
    files: dict[str, Any] = {name: exported[own][0] for name, own in names.items()}
    names |= {label: (label, PYTORCH) for label in models}
    found: dict[tuple[str, str], dict[str, float]] = {own: {} for own in names.values()}
    for one in sec.benchmark({**models, **files}, shapes=SHAPES, repeats=repeats, peak_memory=False):
        found[names[one.model]][f"{one.batch} x {one.tokens}"] = one.latency_ms
    return found


def print_table(lines: Sequence[Line]) -> None:
    """Print lines in Markdown, with the part of the dense model's scores and its speed-up in the same runtime."""
    dense = {one.runtime: one for one in lines if one.model == lines[0].model}
    shapes = [*lines[0].ms]
    print_row(["model", "runtime", "seeds", *(f"{metric}, part of dense" for metric in METRICS), "MB", *shapes])
    print_row(["---"] * (4 + len(METRICS) + len(shapes)))
    for one in lines:
        cells = [
            f"{spread(one.scores[metric])}, {mean(one.scores[metric]) / mean(lines[0].scores[metric]):.1%}"
            for metric in METRICS
        ]
        timed = [
            f"{ms:.2f} ms, {dense[one.runtime].ms[shape] / ms:.1f}x" if (ms := one.ms.get(shape)) else ""
            for shape in shapes
        ]
        seeds = str(len(one.scores[METRICS[0]]))
        print_row([one.model, one.runtime, seeds, *cells, f"{one.megabytes:.1f}", *timed])


def keep(lines: Sequence[Line], place: Path) -> None:
    """Keep lines for the picture."""
    place.write_text(json.dumps([asdict(one) for one in lines], indent=1), encoding="utf-8")


def kept(place: Path) -> list[Line]:
    """The lines that `keep` has kept."""
    return [Line(**one) for one in json.loads(place.read_text(encoding="utf-8"))]


def draw(lines: Sequence[Line], output: Path, title: str, shape: str) -> None:
    """Draw scores over the milliseconds of a shape, a column for each runtime, and over megabytes in the last one.

    Models in int8 are in the column of their runtime, with open markers; static embeddings are a dashed line.
    """
    from matplotlib.figure import Figure

    columns = [*dict.fromkeys(one.runtime.split()[0] for one in lines if one.ms), "MB"]
    figure = Figure(figsize=(4.5 * len(columns), 8), layout="constrained")
    figure.suptitle(title)
    for row, metric in enumerate(METRICS[:2]):
        for column, name in enumerate(columns):
            axes = figure.add_subplot(2, len(columns), row * len(columns) + column + 1)
            axes.set(xscale="log", xlabel="MB" if name == "MB" else f"{name}, {shape}, ms", ylabel=metric)
            axes.grid(True, alpha=0.3)
            for one in lines:
                score = mean(one.scores[metric])
                if not one.ms and name != "MB":
                    axes.axhline(score, linestyle="--", linewidth=1, color="grey", label=one.model)
                for x in _places(one, name, shape):
                    _mark(axes, one, x, score)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


def _places(line: Line, column: str, shape: str) -> Iterator[float]:
    """Where a line is in a column: once, or nowhere."""
    if column == "MB" and line.runtime != "ONNX":  # as large as in PyTorch
        yield line.megabytes
    elif line.runtime.split()[0] == column and shape in line.ms:
        yield line.ms[shape]


def _mark(axes: Any, line: Line, x: float, score: float) -> None:
    quantised = line.runtime.endswith("int8")
    marker = next((own for start, own in (("GRAIN", "o"), ("CoFi", "^"), ("first", "s")) if start in line.model), "D")
    axes.plot(x, score, marker, color="C0", fillstyle="none" if quantised else "full")
    axes.annotate(
        line.model + (" int8" if quantised else ""), (x, score), fontsize=7, xytext=(4, 3), textcoords="offset points"
    )
