"""How long pruning takes: the published procedure, each of our improvements added in turn, and scores against time.

    python benchmarks/train_speed.py steps --data DIR --teacher DIR      whole runs on a part of SST-2, step by step
    python benchmarks/train_speed.py curve --data DIR --teacher DIR      all of SST-2: score against wall-clock
    python benchmarks/train_speed.py sizes --data DIR --teacher DIR      time against layers and rows
    python benchmarks/train_speed.py rounds --data DIR --teacher DIR     the structure chosen in two rounds, or slowly
    python benchmarks/train_speed.py embeddings MODEL                    a training step of a cut model, by embeddings
    python benchmarks/train_speed.py lengths MODEL                       a training step of a cut model, over lengths
    python benchmarks/train_speed.py table                               all finished runs, in Markdown, and the plot

`--data` is a folder with train.parquet and validation.parquet in the columns of GLUE's sst2; `--teacher` is a
fine-tuned MiniLM-L6. The size of oneDNN's cache of code is ONEDNN_PRIMITIVE_CACHE_CAPACITY, if the environment sets it.
Each run is a process of its own with one thread; `--jobs` runs that many at once, and `--only` selects those whose name
begins with a text. Finished runs are not repeated. The published procedure is GRAIN's (specification, section 13) in
this package: the same steps, two full backward passes in each, the teacher in every step, and no cut before the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import typer
from runner import Folder, base_model, hold_out

app = typer.Typer(add_completion=False)
RUNS = Path("runs/train-speed")
SEEDS = (0, 1)
SPENT = "spent.json"
"""The file in a run's folder with the wall-clock and the processor seconds of its process."""

PUBLISHED: dict[str, Any] = {
    "data.max_length": 64,
    "method": "grain",
    "distillation.start": "model",
    "method.options": {"faithful": True},
    "distillation.hidden": "every 2",
    "training.batch_size": 32,
    "training.learning_rate": 1e-4,
    "training.warmup": 0.1,
    "method.begin": 0.2,
    "method.end": 0.9999,  # dense to the last step but one
    "method.ramp": 0.2 / 0.7999,
    "training.bf16": False,
    "distillation.cache": False,
    "method.shrink": False,
    "method.ramp_rows": 0,
    "training.freeze_embeddings": False,
    "training.dropout": None,
    "training.evaluations": 0,
    "training.checkpoints": 0,
    "measurement.shapes": [],
}
"""GRAIN's procedure on MiniLM-L6: specification, section 13."""
TWICE, STOCK, ROUNDS = "two full backwards", "as PyTorch has it", "in two rounds"
"""What a recipe cannot set. `STOCK` is fused attention, batches of any length, oneDNN's default cache, and no reuse of
free pages."""
BETWEEN, HALFWAY = (0.05, 0.3), 0.2
"""In two rounds: the progress at which the first ends and the second begins, and the density in between."""
GRAIN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("published, fp32", {**PUBLISHED, TWICE: True, STOCK: True}),
    ("bf16 autocast", {"training.bf16": True}),
    ("attention spelled out, few lengths, pages kept", {STOCK: False}),
    ("evidence from the masks alone", {TWICE: False}),
    ("teacher's outputs cached", {"distillation.cache": True}),
    ("word embeddings frozen", {"training.freeze_embeddings": True}),
    ("no dropout", {"training.dropout": 0.0}),
    ("cut when pruned", {"method.end": 0.4, "method.ramp": 1.0}),
    ("cut while it is pruned", {"method.shrink": True}),
    (
        "pruned earlier, from the teacher",
        {
            "method.options": {},
            "distillation.start": "teacher",
            "method.begin": 0.005,
            "method.end": 0.1,
            "distillation.hidden": [2, 4, 6],
            "distillation.hidden_projection": False,
            "training.batch_size": 64,
            "training.learning_rate": 1e-3,
            "training.warmup": 0.02,
        },
    ),
    ("the same in fp32", {"training.bf16": False}),
)
"""Name of a step, and what it changes in the one before it."""
COFI: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "published, fp32",
        {
            **PUBLISHED,
            STOCK: True,
            "method": "cofi",
            "target.units": ["hidden", "head", "sublayer", "ffn"],
            "method.options": {"learning_rate": 0.1, "constraint": "lagrangian"},
            "distillation.start": "teacher",
            "distillation.temperature": 2.0,
            "distillation.divergence": True,
            "distillation.hidden": [2, 4, 6],
            "distillation.match": "nearest-ordered",
            "training.freeze_embeddings": "all",
            "training.learning_rate": 5e-4,
            "training.warmup": 0.02,
            "method.begin": 0.02,
            "method.ramp": 0.4,
            "method.end": 0.5,
        },
    ),
    ("bf16 autocast", {"training.bf16": True}),
    ("attention spelled out, few lengths, pages kept", {STOCK: False}),
    ("teacher's outputs cached", {"distillation.cache": True}),
    ("no dropout", {"training.dropout": 0.0}),
    (
        "gates that have settled closed for good",
        {"method.options": {"learning_rate": 0.1, "constraint": "lagrangian", "settle": 20}},
    ),
    ("the same in fp32", {"training.bf16": False}),
    ("pruned in half of the time", {"training.bf16": True, "method.end": 0.25, "method.ramp": 0.5}),
)
"""As for GRAIN, at ten times the published learning rate of the gates, without which a short run prunes nothing; CoFi
has one backward pass per step, and cuts before it recovers."""
CHANGES = {"grain": GRAIN, "cofi": COFI}
ENDS = ("bf16 autocast", "pruned earlier, from the teacher")
"""The first and the last procedure of GRAIN, in one precision, where only these are compared."""
RANK = 64
WAYS = (
    "frozen",
    "trained",
    "trained by sparse gradients and a lazy Adam",
    f"factorised to rank {RANK}, trained",
    "restricted to the words that occur, trained",
)
"""Ways to train, or not to train, the word embeddings of a cut model."""
EPOCHS = (1.5, 8.0, 16.0, 32.0)
"""Epochs of our runs over all rows, which take about 1/12, 1/4, 1/2 and all of the time of the published one."""
LAYERS, TIMES, ROWS = (2, 4, 6), (1, 2, 4), 2000


def procedures(changes: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Name of a step -> the settings of its run, which include those of the steps before it."""
    by_name: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for name, change in changes:
        settings = {**settings, **change}
        by_name[name] = settings
    return by_name


def one_thread(folder: Path, asked: Mapping[str, Any]) -> None:
    """Do a run in its own process with one thread; its output is appended to a log file beside its folder."""
    if (folder / "report.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    cache = "1024" if asked.get(STOCK) else "4096"  # oneDNN's own default, and ours
    environment = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": cache, **os.environ, "OMP_NUM_THREADS": "1"}
    with Path(f"{folder}.log").open("a") as log:
        command = [sys.executable, __file__, "one", json.dumps(asked), str(folder)]
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)


@app.command(hidden=True)
def one(asked: str, folder: Path) -> None:
    """Do one run in this process: by its recipe, and as the published code does where the settings say so."""
    import torch

    from secateur.methods.grain import Grain
    from secateur.run import pipeline, run_data, stage_trainer
    from secateur.run.recipe import make
    from secateur.system import process_memory
    from secateur.training import trainer as training

    torch.set_num_threads(1)
    values = json.loads(asked)
    twice, stock, rounds = (values.pop(name, False) for name in (TWICE, STOCK, ROUNDS))
    began = time.monotonic()
    with ExitStack() as stack:
        if twice:
            stack.enter_context(patch.object(stage_trainer, "PruningTrainer", _published()))
        if stock:
            stack.enter_context(patch.object(training, "fast_attention", lambda device: nullcontext()))
            stack.enter_context(patch.object(run_data, "LENGTH_MULTIPLE", 1))
            stack.enter_context(patch.object(process_memory, "keep_free_pages", nullcontext))
        if rounds:
            stack.enter_context(patch.object(Grain, "schedule", _rounds()))
        pipeline.run(make(values), folder)
    spent = {"seconds": time.monotonic() - began, "processor": time.process_time()}
    (folder / SPENT).write_text(json.dumps(spent) + "\n")


def _published() -> Any:
    """A trainer that makes two backward passes through the whole model in every step."""
    import torch

    from secateur.training.evidence import Evidence
    from secateur.training.trainer import PruningTrainer

    class Twice(Evidence):
        def __init__(self, trainer: PruningTrainer) -> None:
            super().__init__(trainer.method, trainer.finite, trainer.objective, cut=False)
            self.model = trainer.model

        def gradient(
            self, values: Mapping[str, torch.Tensor], masks: torch.Tensor | None, micro_batches: int
        ) -> torch.Tensor | None:
            observed = self.method.listens_to if self.method is not None else {}
            first = sum(value for name, value in values.items() if observed.get(name, name == "logits"))
            assert isinstance(first, torch.Tensor)
            weights = [weight for weight in self.model.parameters() if weight.requires_grad]
            sources = weights if masks is None else [masks, *weights]
            gradients = torch.autograd.grad(first, sources, retain_graph=True, allow_unused=True)
            return gradients[0].float() if observed and masks is not None else None

    class Published(PruningTrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options, cuda_graphs=False)
            self.evidence = Twice(self)

    return Published


def _rounds() -> Any:
    """A schedule of two cubic ramps, with a recovery at the density `HALFWAY` in between."""
    from secateur.methods.schedules import Schedule, cubic

    class Rounds(Schedule):
        def __call__(self, progress: float) -> float:
            first = cubic(self.start, HALFWAY, begin=self.begin, end=BETWEEN[0])
            second = cubic(HALFWAY, self.stop, begin=BETWEEN[1], end=self.end)
            return first(progress) if progress < BETWEEN[1] else second(progress)

    return staticmethod(lambda density, begin, end: Rounds("cubic", 1.0, density, begin, end))


def several(runs: Mapping[str, Mapping[str, Any]], jobs: int, only: str) -> None:
    """Do the runs whose name begins with `only`, in order, `jobs` at once."""
    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(one_thread, RUNS / n, asked) for n, asked in runs.items() if n.startswith(only)]
        for done in started:
            done.result()


@app.command()
def steps(data: Folder, teacher: Folder, jobs: int = 1, rows: int = 6000, epochs: float = 2.0, only: str = "") -> None:
    """Do whole runs of every procedure at a density of 0.05 over a part of the training set."""
    shared = {**places(data, teacher), "data.rows": rows, "training.epochs": epochs}
    runs = {
        f"steps/{method}-{number}-{seed}": {**shared, **asked, "seed": seed}
        for seed in SEEDS
        for method, changes in CHANGES.items()
        for number, asked in enumerate(procedures(changes).values())
    }
    several(runs, jobs, f"steps/{only}")


@app.command()
def curve(data: Folder, teacher: Folder, jobs: int = 1, only: str = "") -> None:
    """Do runs of the published procedure over the whole training set, and of ours in parts of its time."""
    runs = {
        f"curve/{name}-{seed}": {**places(data, teacher), **asked, "seed": seed}
        for name, asked in whole_runs().items()
        for seed in SEEDS
    }
    several(runs, jobs, f"curve/{only}")


def whole_runs() -> dict[str, dict[str, Any]]:
    """Name -> settings of the runs over all rows."""
    published, ours = (procedures(GRAIN)[name] for name in ENDS)
    first = 1.5  # all have the number of pruning steps of 1.5 epochs, then a longer recovery
    longer = {
        f"ours-{epochs:g}": {
            **ours,
            "training.epochs": epochs,
            **{k: ours[k] * first / epochs for k in ("method.begin", "method.end")},
        }
        for epochs in EPOCHS
    }
    return {"published": {**published, "training.epochs": 4.0}, **longer}


@app.command()
def sizes(data: Folder, teacher: Folder, jobs: int = 1, only: str = "") -> None:
    """Do runs of the published procedure in bf16 and of ours, for fewer layers and one, two and four times the rows."""
    runs = {}
    for layers, times in product(LAYERS, TIMES):
        model = {"model": str(shallow(Path(base_model()), layers)), "teacher": str(shallow(teacher, layers))}
        for name in ENDS:
            asked = {**places(data, teacher), **procedures(GRAIN)[name], **model, "distillation.hidden": None}
            runs[f"sizes/{layers}-{times}-{name}"] = {**asked, "data.rows": times * ROWS, "training.epochs": 1.0}
    several(runs, jobs, f"sizes/{only}")


@app.command()
def rounds(
    data: Folder, teacher: Folder, jobs: int = 1, rows: int = 20000, epochs: float = 8.0, only: str = ""
) -> None:
    """Do runs of ours whose structure is chosen at once, slowly, and in two rounds, scored on rows held out."""
    held_out = hold_out(data, RUNS / "held-out", 2000)
    shared = {
        **places(held_out, teacher),
        **procedures(GRAIN)[ENDS[1]],
        "data.rows": rows,
        "training.epochs": epochs,
        "seed": 0,
    }
    ways = {"once": {"method.end": 0.06}, "slowly": {"method.end": 0.36}, "two": {"method.end": 0.36, ROUNDS: True}}
    several(
        {f"rounds/{name}": {**shared, "method.begin": 0.003, **way} for name, way in ways.items()},
        jobs,
        f"rounds/{only}",
    )
    for folder in done(f"rounds/{name}" for name in ways):
        print(f"| {folder.name} | {_spent(folder)['processor']:.0f} | {_scores([folder])} |")


def shallow(model: Path, layers: int) -> Path:
    """A model's first layers, in a folder of its own."""
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    folder = RUNS / "shallow" / f"{model.name}-{layers}"
    if not folder.is_dir():
        architecture = json.loads((model / "config.json").read_text())["architectures"][0]
        kind = AutoModelForSequenceClassification if "Classification" in architecture else AutoModel
        kind.from_pretrained(model, num_hidden_layers=layers).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@app.command()
def embeddings(model: Path, batch: int = 32, tokens: int = 13, repeats: int = 30, vocabulary: int = 12000) -> None:
    """Print the processor milliseconds of a training step of a cut model, interleaved, for each of `WAYS`."""
    import torch

    torch.set_num_threads(1)
    ways = {way: _stepper(model, way, batch, tokens, vocabulary) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, step in ways.items():
            began = time.process_time()
            step()
            times[way].append(time.process_time() - began)
    for way, seconds in times.items():
        print(f"| {way} | {1000 * median(seconds):.1f} ms |")


@app.command()
def lengths(model: Path, batch: int = 32, longest: int = 64, steps: int = 150) -> None:
    """Print the processor milliseconds of a training step over lengths from 4 to the longest, and the memory used."""
    import torch

    from secateur.system import process_memory

    torch.set_num_threads(1)
    step = _stepper(model, WAYS[0], batch, longest, 12000)
    sampled = (4 * torch.randint(1, longest // 4 + 1, (steps,), generator=torch.Generator().manual_seed(0))).tolist()
    with process_memory.keep_free_pages():
        for tokens in range(4, longest + 1, 4):
            step(tokens)
        began = time.process_time()
        for tokens in sampled:
            step(tokens)
        seconds = (time.process_time() - began) / steps
        print(f"{1000 * seconds:.0f} ms a step, {process_memory.readings().get('resident_mb', 0):.0f} MB resident")


def _stepper(folder: Path, way: str, batch: int, tokens: int, vocabulary: int) -> Callable[..., None]:
    """A function that takes one optimizer step over a number of tokens, under bf16 autocast with fused AdamW."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from secateur import load
    from secateur.surgery.compact import FactorisedEmbedding

    torch.manual_seed(0)
    small = load(folder).train()
    table = small.get_input_embeddings()
    if way == WAYS[0]:
        table.requires_grad_(False)
    if way == WAYS[2]:
        table.sparse = True
    if way == WAYS[3]:
        small.set_input_embeddings(FactorisedEmbedding.like(table, RANK))
        for parameter in small.get_input_embeddings().parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    if way == WAYS[4]:
        small.set_input_embeddings(torch.nn.Embedding(vocabulary, table.embedding_dim))
    words = [p for p in small.get_input_embeddings().parameters() if p.requires_grad and way == WAYS[2]]
    rest = [p for p in small.parameters() if p.requires_grad and all(p is not word for word in words)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=1e-4, fused=True)]
    optimizers += [torch.optim.SparseAdam(words, lr=1e-4)] if words else []

    def step(tokens: int = tokens) -> None:
        ids = torch.randint(1000, vocabulary, (batch, tokens))
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = small(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(5):
        step()
    return step


def places(data: Path, teacher: Path) -> dict[str, Any]:
    """The keys of a recipe for the model, the teacher and the data, and the target density."""
    return {"model": base_model(), "teacher": str(teacher), "data": str(data), "target.density": 0.05}


# Results


@app.command()
def table() -> None:
    """Print all finished runs in Markdown, and plot density and speed over a run."""
    for method, changes in CHANGES.items():
        _table_of_steps(method, list(procedures(changes)))
    _table_of_curve()
    _table_of_sizes()
    plotted = {name: RUNS / "steps" / f"grain-{list(procedures(GRAIN)).index(name)}-0" for name in ENDS}
    if all((folder / SPENT).is_file() for folder in plotted.values()):
        plot(plotted, Path("docs/pictures/train-speed.png"))


def _table_of_steps(method: str, names: list[str]) -> None:
    print(f"| {method}: procedure | seconds | of the first | processor seconds | examples/s in three phases | score |")
    print("| --- | --- | --- | --- | --- | --- |")
    finished = {n: done(f"steps/{method}-{n}-{seed}" for seed in SEEDS) for n in range(len(names))}
    for number, name in enumerate(names):
        if folders := finished[number]:
            seconds, processor = ([_spent(f)[key] for f in folders] for key in ("seconds", "processor"))
            pairs = [(f, g) for f in finished[0] for g in folders if f.name[-1] == g.name[-1]]
            ratio = [_spent(first)["seconds"] / _spent(own)["seconds"] for first, own in pairs]
            rates = " ".join(f"{rate:.0f}" if rate else "-" for rate in phases(folders[0]))
            times = f"{mean(ratio):.1f}x" if ratio else "-"
            print(f"| {name} | {_each(seconds)} | {times} | {_each(processor)} | {rates} | {_scores(folders)} |")


def _table_of_curve() -> None:
    print("\n| run | seconds | processor seconds | score |\n| --- | --- | --- | --- |")
    for name in whole_runs():
        if folders := done(f"curve/{name}-{seed}" for seed in SEEDS):
            seconds, processor = ([_spent(f)[key] for f in folders] for key in ("seconds", "processor"))
            print(f"| {name} | {_each(seconds)} | {_each(processor)} | {_scores(folders)} |")


def _table_of_sizes() -> None:
    print("\n| layers | rows | published, bf16, processor s | ours | times as fast |\n| --- | --- | --- | --- | --- |")
    for layers, times in product(LAYERS, TIMES):
        folders = done(f"sizes/{layers}-{times}-{name}" for name in ENDS)
        if len(folders) == len(ENDS):
            theirs, ours = (_spent(folder)["processor"] for folder in folders)
            print(f"| {layers} | {times * ROWS:,} | {theirs:.0f} | {ours:.0f} | {theirs / ours:.1f}x |")


def done(names: Iterable[str]) -> list[Path]:
    """The folders of the runs that are finished."""
    return [RUNS / name for name in names if (RUNS / name / SPENT).is_file()]


def phases(folder: Path) -> tuple[float | None, ...]:
    """Examples per second before, while and after the density decreases; None if too little of a phase was logged."""
    from secateur.report.recipe_keys import upgrade

    method = upgrade(json.loads((folder / "report.json").read_text())["recipe"])["method"]
    ramp = method["begin"], method["begin"] + method["ramp"] * (method["end"] - method["begin"])
    rows, seconds = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for one, two in pairwise(log(folder)):
        if one["stage"] == two["stage"]:
            phase = bisect_left(ramp, two["progress"])
            rows[phase] += two["rows"] - one["rows"]
            seconds[phase] += two["seconds"] - one["seconds"]
    return tuple(n / duration if duration else None for n, duration in zip(rows, seconds, strict=True))


def log(folder: Path) -> list[dict[str, Any]]:
    """The log lines of pruning and recovery that have a loss."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line and line["stage"] in ("prune", "recover")]


def plot(runs: Mapping[str, Path], path: Path) -> None:
    """Plot the density and the examples per second over the seconds of each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from secateur.report.svg import figure, plain_powers, style

    with style():
        drawn = figure(720, 260)
        above, beside = drawn.subplots(1, 2)
        for name, folder in runs.items():
            lines, before = log(folder), 0.0
            seconds, density, rate = list[float](), list[float](), list[float]()
            for one, two in pairwise(lines):
                if one["stage"] != two["stage"]:
                    before = seconds[-1]
                    continue
                seconds.append(before + two["seconds"])
                density.append(two.get("density", 0.05))
                rate.append((two["rows"] - one["rows"]) / (two["seconds"] - one["seconds"]))
            above.plot(seconds, density, label=name)
            beside.plot(seconds, rate)
        above.set(xlabel="seconds", ylabel="density", ylim=(0, 1.05))
        beside.set(xlabel="seconds", ylabel="examples a second", yscale="log")
        plain_powers(beside.yaxis)
        above.legend()
        FigureCanvasAgg(drawn)
        drawn.savefig(path, dpi=144, facecolor="white")


def _spent(folder: Path) -> dict[str, float]:
    spent: dict[str, float] = json.loads((folder / SPENT).read_text())
    return spent


def _scores(folders: list[Path]) -> str:
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    return ", ".join(f"{report['scores'][report['metric']]:.4f}" for report in reports)


def _each(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


if __name__ == "__main__":
    app()
