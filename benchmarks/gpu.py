"""What secateur does on a GPU, measured within minutes: its tests, inference, the steps of training, and whole runs.

    python benchmarks/gpu.py all --model DIR --data DIR     the four parts that follow, each with a time limit
    python benchmarks/gpu.py tests                          tests/gpu
    python benchmarks/gpu.py inference                      BERT-base, dense and cut: runtimes, dtypes, shapes, rounding
    python benchmarks/gpu.py steps                          steps per second of each phase of a run, and of the roofline
    python benchmarks/gpu.py runs --model DIR --data DIR    GRAIN and CoFi at a density of 5% on SST-2

`--model` is a MiniLM-L6 that was fine-tuned on SST-2, the teacher from which the student starts; `--data` is a folder
with train.parquet and validation.parquet in the columns of GLUE's sst2. A part prints what it measures as it goes, and
adds it to `results.json` in the folder `--out`. `all` does each part in its own process, and stops at the first that
fails; a part whose time is up is ended, and the next one begins. `python benchmarks/gpu.py --device cpu PART` tries a
part on the CPU: give it small sizes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import datasets
import torch
import transformers
import typer
from inference import GRAIN, cofi_like, dense_base, grain_like
from runner import Folder, one, print_row
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

import secateur as sec
from secateur.budget.amounts import batch_and_tokens
from secateur.budget.ranking import rounded
from secateur.measure import roofline
from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.measure.random_inputs import as_tensors, random_inputs
from secateur.measure.timing import machine
from secateur.run import pipeline
from secateur.run.recipe import make
from secateur.structure.plan import Plan

app = typer.Typer(add_completion=False)
ROOT = Path(__file__).parents[1]
RESULTS = "results.json"
SHAPES = "1x128,8x128,32x128,256x128"
COMPILED_SHAPES = "1x128,32x128"
MANY = 4096
"""Tokens of a forward from which on fewer are timed."""
ROUND_TO = (1, 8, 16)
COMPILED = ("dense", "GRAIN-like, few heads, to 8")
"""The models that are compiled: each takes about half a minute a shape."""
SIZES: dict[str, dict[str, Any]] = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "BERT-base": {},
}
"""What the config of BERT-base changes to; both have 12 heads."""
EPOCHS = {"grain": 16.0, "cofi": 20.0}
LIMITS = {"tests": 110, "inference": 190, "steps": 80, "runs": 100}
"""Seconds of each part of `all`."""


@dataclass
class Settings:
    """The options that all parts share."""

    device: str = "cuda"
    out: Path = Path("runs/gpu")


SETTINGS = Settings()


@app.callback()
def options(device: str = "cuda", out: Path = SETTINGS.out) -> None:
    """Choose the device, cuda or cpu, and the folder of the results."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # trainings take a GPU if they see one
    elif not torch.cuda.is_available():
        raise typer.BadParameter("PyTorch finds no GPU here: give --device cpu")
    SETTINGS.device, SETTINGS.out = device, out
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def record(part: str, value: Any) -> None:
    """Add what a part has measured to the results, with the machine and the versions."""
    path = SETTINGS.out / RESULTS
    results = json.loads(path.read_text()) if path.is_file() else {}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "secateur": sec.__version__}
    results |= {"machine": machine(torch.device(SETTINGS.device)), "versions": versions, part: value}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


# All parts


@app.command(name="all")
def every_part(
    model: Folder,
    data: Folder,
    tests_seconds: int = LIMITS["tests"],
    inference_seconds: int = LIMITS["inference"],
    steps_seconds: int = LIMITS["steps"],
    runs_seconds: int = LIMITS["runs"],
) -> None:
    """Do all parts, each in its own process; 0 seconds leave a part out."""
    limits = {"tests": tests_seconds, "inference": inference_seconds, "steps": steps_seconds, "runs": runs_seconds}
    for part, seconds in limits.items():
        places = ["--model", str(model), "--data", str(data)] if part == "runs" else []
        if seconds and (failed := _in_time(part, places, seconds)):
            raise typer.Exit(failed)


def _in_time(part: str, arguments: Sequence[str], seconds: int) -> int:
    """Do a part, end it with all that it has started when its time is up, and return its exit status."""
    print(f"\n## {part}, at most {seconds} s", flush=True)
    shared = ["--device", SETTINGS.device, "--out", str(SETTINGS.out)]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, *shared, part, *arguments], start_new_session=True)
    try:
        failed = process.wait(seconds)
    except subprocess.TimeoutExpired:
        failed = 0
        print(f"{part}: ended after {seconds} s", flush=True)
    finally:
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print(f"{part}: {time.monotonic() - began:.0f} s, exit status {failed}", flush=True)
    return failed


# Tests


@app.command()
def tests(workers: int = 8, only: str = "") -> None:
    """Run tests/gpu; `only` is what pytest takes as -k. A warning of a library is listed, and stops nothing."""
    # pytest-benchmark, where it is installed, warns that it does not work with several workers.
    command = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "gpu"), "-p", "no:benchmark", "-W", "default"]
    command += ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    command += ["--durations", "8", "-ra", *(["-k", only] if only else [])]
    own = {"PYTHONPATH": os.pathsep.join(sys.path[1:]), "SECATEUR_GPU_TESTS_ON": SETTINGS.device}
    began, lines = time.monotonic(), list[str]()
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    record("tests", {"seconds": time.monotonic() - began, "exit_status": process.returncode, "last_lines": lines[-40:]})
    raise typer.Exit(process.returncode)


# Inference


@app.command()
def inference(
    shapes: str = SHAPES,
    compiled_shapes: str = COMPILED_SHAPES,
    repeats: int = 30,
    warmup: int = 5,
    dtypes: str = "bf16,fp32",
    compiled: bool = True,
) -> None:
    """Latencies against the dense model in the same runtime and dtype, medians of interleaved forwards."""
    base = dense_base()
    models = {"dense": base} | {name: sec.cut(base, plan) for name, plan in plans(base).items()}
    runtimes = ["pytorch", "cudagraph"] if SETTINGS.device == "cuda" else ["pytorch"]
    results: list[BenchmarkResult] = []
    print(f"\nmedians of {repeats} forwards in turn, a third of them for more than {MANY} tokens")
    print(
        "| shape | runtime | dtype | model | ms | times as fast as dense in this runtime and dtype | of the roofline |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape in map(batch_and_tokens, shapes.split(",")):
        results += _timed(models, runtimes, dtypes.split(","), shape, repeats, warmup)
        record("inference", [one.to_dict() for one in results])
    if compiled:
        few = {name: models[name] for name in COMPILED}
        for shape in map(batch_and_tokens, compiled_shapes.split(",")):
            results += _timed(few, ["compiled"], dtypes.split(",")[:1], shape, repeats, warmup)
            record("inference", [one.to_dict() for one in results])


def plans(base: PreTrainedModel) -> dict[str, Plan]:
    """The structures of the table of inference.py, those of GRAIN also with sizes rounded up as `round_to` does."""
    found = {}
    for name, sizes in GRAIN.items():
        plan = grain_like(base, *sizes)
        space = plan.space(base)
        for multiple in ROUND_TO:
            kept = rounded(space, plan.kept, torch.zeros(len(space)), multiple)
            found[name + (f", to {multiple}" if multiple > 1 else "")] = Plan.of(space, kept.float())
    return found | {"CoFi-like": cofi_like(base)}


def _timed(
    models: Mapping[str, PreTrainedModel],
    runtimes: Sequence[str],
    dtypes: Sequence[str],
    shape: tuple[int, int],
    repeats: int,
    warmup: int,
) -> list[BenchmarkResult]:
    """Measure all models at one shape in turn, and print a row for each."""
    results = benchmark(
        models,
        dense="dense",
        runtimes=runtimes,
        dtypes=dtypes,
        shapes=[shape],
        repeats=lambda shape: repeats if shape[0] * shape[1] <= MANY else -(-repeats // 3),
        warmup=warmup,
        device=SETTINGS.device,
        peak_memory=False,
    )
    for own in results:
        times = f"{own.speed_up:.2f}x" if own.speed_up else ""
        floor = f"{own.over_floor:.1f}" if own.over_floor else ""
        cells = [
            f"{own.batch} x {own.tokens}",
            own.runtime,
            own.dtype,
            own.model,
            f"{own.latency_ms:.3f}",
            times,
            floor,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    return results


# Steps of training


@app.command()
def steps(
    count: int = 40,
    batch: int = 32,
    lengths: str = "32,128",
    models: str = ",".join(SIZES),
    profile: Annotated[bool, typer.Option(help="Time the operations of the steps; they are slower then.")] = False,
) -> None:
    """Steps per second of a GRAIN run on random tokens: before, after and at the end of pruning; `count` of each."""
    rows: list[dict[str, Any]] = []
    print("| model | batch x tokens | phase | steps/s | GFLOP | share of the peak rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in models.split(","):
        for tokens in map(int, lengths.split(",")):
            for phase in _phases(name, batch, tokens, count, profile):
                rows.append({"model": name, "batch": batch, "tokens": tokens, **phase})
                rates = [f"{phase['steps_per_second']:.1f}", f"{phase['flops'] / 1e9:.1f}", f"{phase['share']:.1%}"]
                print_row([name, f"{batch} x {tokens}", phase["phase"], *rates])
                for operation in phase.get("operations", []):
                    print(f"    {operation}", flush=True)
                record("steps", rows)


def _phases(name: str, batch: int, tokens: int, count: int, profile: bool) -> list[dict[str, Any]]:
    """The measurements of each phase of a run, of a model with random weights on rows of equal length.

    The operations of a step are counted as three times the matrix products of a forward, padding included.
    """
    folder = SETTINGS.out / "steps" / f"{name}-{batch}x{tokens}"
    with _emptied(folder):
        values = _write_world(folder, BertConfig(**SIZES[name]), batch, tokens)
        watch = PhaseWatch(count, profile)
        pipeline.run(make(values | watch.schedule()), folder / "run", [watch])
        dense = BertForSequenceClassification.from_pretrained(folder / "model")
        small = sec.load(folder / "run" / "model")
    inputs = as_tensors(random_inputs(1000, batch, tokens))
    peak, measured = _peak_rate(), []
    for phase, model in (("dense", dense), ("shrunk", small), ("recovery", small)):
        work = roofline.work(model, inputs)
        assert work is not None, "BERT returns hidden states"
        flops, seconds = 3 * work.flops, watch.seconds(phase)
        own = {"phase": phase, "steps_per_second": 1 / seconds, "flops": flops, "share": flops / seconds / peak}
        measured.append(own | ({"operations": watch.operations[phase]} if profile else {}))
    return measured


@cache
def _peak_rate() -> float:
    """Operations per second of a large product in bf16."""
    return roofline.rates("bf16", torch.get_num_threads(), SETTINGS.device).flops


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """A folder that is new, and removed at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield
    shutil.rmtree(folder, ignore_errors=True)


def _write_world(folder: Path, config: BertConfig, batch: int, tokens: int) -> dict[str, Any]:
    """Write a random classifier and rows of `tokens` tokens; returns the recipe that trains on them."""
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(1000))]
    _tokenizer(words, tokens).save_pretrained(folder / "model")
    (folder / "data").mkdir()
    generator = torch.Generator().manual_seed(0)
    for split, rows in (("train", 16 * batch), ("validation", batch)):
        with (folder / "data" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for number in range(rows):
                chosen = torch.randint(4, len(words), (tokens - 2,), generator=generator).tolist()
                table.writerow([" ".join(words[word] for word in chosen), number % 2])
    return {
        "model": str(folder / "model"),
        "teacher": str(folder / "model"),
        "distillation.check_teacher": False,
        "data": str(folder / "data"),
        "data.max_length": tokens,
        "target.density": 0.05,
        "training.batch_size": batch,
        "training.evaluations": 0,
        "training.checkpoints": 0,
        "measurement.shapes": [],
    }


def _tokenizer(words: Sequence[str], tokens: int) -> PreTrainedTokenizerFast:
    pieces = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=tokens, model_input_names=names, **special)


@dataclass
class PhaseWatch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Times the steps of a run: `count` dense ones, half as many of pruning, `count` shrunk ones, `count` of recovery.

    The first quarter of each phase warms up.

    Attributes:
        times: (stage, step) -> when the device had done it.
        operations: phase -> the operations that took most time of the processor, if they are profiled.
    """

    count: int
    profile: bool = False
    times: dict[tuple[str, int], float] = field(default_factory=dict)
    operations: dict[str, list[str]] = field(default_factory=dict)
    profiler: Any = None

    def schedule(self) -> dict[str, Any]:
        """The keys of the recipe that make these phases."""
        return {"training.steps": 7 * self.count // 2, "method.begin": 2 / 7, "method.end": 5 / 7, "method.ramp": 1 / 3}

    @property
    def windows(self) -> dict[str, tuple[tuple[str, int], tuple[str, int]]]:
        """Phase -> the stage and the step at which its timing begins and ends."""
        quarter, ramped = self.count // 4, 3 * self.count // 2
        return {
            "dense": (("prune", quarter), ("prune", self.count)),
            "shrunk": (("prune", ramped + quarter), ("prune", ramped + self.count)),
            "recovery": (("recover", quarter), ("recover", self.count)),
        }

    def seconds(self, phase: str) -> float:
        """The seconds of a step."""
        begin, end = self.windows[phase]
        return (self.times[end] - self.times[begin]) / (end[1] - begin[1])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        place = Path(args.output_dir).name, state.global_step
        for phase, (begin, end) in self.windows.items():
            if place in (begin, end):
                if torch.accelerator.is_available():
                    torch.accelerator.synchronize()
                self.times[place] = time.perf_counter()
                if self.profile:
                    self._profile(phase, place == begin, end[1] - begin[1])

    def _profile(self, phase: str, begins: bool, counted: int) -> None:
        """Begin to profile, or end it and keep the ten operations that took most time of the processor."""
        if begins:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
            return
        self.profiler.stop()
        ranked = sorted(self.profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
        self.operations[phase] = [
            f"{event.self_cpu_time_total / counted:8.0f} us/step, {event.count / counted:6.1f} calls/step: {event.key}"
            for event in ranked[:10]
        ]


# Whole runs


@app.command()
def runs(
    model: Folder,
    data: Folder,
    methods: str = ",".join(EPOCHS),
    batch: int = 128,
    epochs: Annotated[float, typer.Option(help="Epochs of every run, in place of 16 for GRAIN and 20 for CoFi.")] = 0.0,
    changes: Annotated[str, typer.Option(help="JSON: further keys of the recipes.")] = "{}",
    jobs: Annotated[int, typer.Option(help="Runs at once, which share the GPU.")] = 2,
) -> None:
    """Do the runs that are not finished, and print their scores."""
    root = SETTINGS.out / "runs"
    shared = {"model": str(model), "teacher": str(model), "data": str(data), "data.max_length": 64}
    shared |= {"target.density": 0.05, "training.batch_size": batch, "measurement.shapes": [], **json.loads(changes)}
    values = {
        name: {**shared, "method": name, "training.epochs": epochs or EPOCHS[name]} for name in methods.split(",")
    }
    cores, reports = max(1, (os.cpu_count() or 1) // jobs), dict[str, Any]()
    one(root / "shared", next(iter(values.values())), root, cores, "outputs")
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(one, root / name, own, root, cores): name for name, own in values.items()}
        while waiting:
            done, _ = wait(waiting, timeout=20, return_when="FIRST_COMPLETED")
            for future in done:
                name = waiting.pop(future)
                reports[name] = _finished(root / name)
                record("runs", reports)
            for name in waiting.values():
                _print_progress(root / name)


def _finished(folder: Path) -> dict[str, Any]:
    """The report of a run, whose scores and seconds are printed; a run that failed ends the part with its output."""
    if not (folder / "report.json").is_file():
        print(Path(f"{folder}.log").read_text()[-3000:], flush=True)
        os._exit(1)  # at once: the other runs need not be waited for
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    scores = [f"{own[report['metric']]:.4f}" for own in (report["teacher_scores"], report["scores"])]
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in report["seconds"].items())
    print(f"{folder.name}: {' -> '.join(scores)} {report['metric']}, {seconds} s", flush=True)
    return report


def _print_progress(folder: Path) -> None:
    """Print where a run is, by the last line of its log."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    if lines:
        last = json.loads(lines[-1])
        rate = last["step"] / last["seconds"] if last["seconds"] else 0.0
        print(f"{folder.name}: {last['stage']} {last['step']}/{last['of']}, {rate:.1f} steps/s", flush=True)


if __name__ == "__main__":
    app()
