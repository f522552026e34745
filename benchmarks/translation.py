"""A translation model in other runtimes: BLEU and milliseconds a sentence, dense and pruned.

    python benchmarks/translation.py train --data DIR      the Marian model of heads.py, and its pruned runs
    python benchmarks/translation.py scores --data DIR     exports, and the BLEU of each on the test set
    python benchmarks/translation.py times --data DIR      milliseconds a sentence of each, on an idle machine

`--data` is a folder with `multi30k` (en, de; with test.parquet). BLEU is of all 1,000 sentences of the test set, by
beam search with 5 beams. Times are of `--sentences` of these, one at a time, greedily and with 5 beams, from tokens to
tokens: every model translates a sentence before any translates the next one. A speed-up is the ratio of the sums of the
times.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import heads
import typer
from runner import Folder, several

app = typer.Typer(add_completion=False)
ROOT = heads.RUNS / "translation"
SERVED = ROOT / "served"
SHALLOW = {
    "method": "grain",
    "target.units": ("decoder.layer", "encoder.ffn", "encoder.qk", "encoder.vo"),
    "target.layers": 1,
    "target.layer_rule": "spread",
}
"""A decoder of one of three layers, and an encoder of which units are pruned."""
PRUNED: dict[str, dict[str, Any]] = {
    "GRAIN 0.4": {"method": "grain", "target.density": 0.4},
    "GRAIN 0.2": {"method": "grain", "target.density": 0.2},
    "shallow 0.6": {**SHALLOW, "target.density": 0.6},
    "shallow 0.4": {**SHALLOW, "target.density": 0.4},
}
"""Name of a run -> the keys by which it differs from the translation runs of heads.py."""
RUNTIMES, DTYPES, BEAMS = ("onnxruntime", "openvino"), ("fp32", "int8"), (1, 5)
Only = Annotated[list[str] | None, typer.Option(help="Name of a model; repeatable; all by default.")]
Writers = dict[tuple[str, str, str], Any]
"""(model, runtime, dtype) -> something that generates."""


@app.command()
def train(data: Folder, jobs: int = 1) -> None:
    """Train the dense model and prune it, where that is not done."""
    base = heads.settings("translation", data)
    several(ROOT, {f"{name} 0": {**base, **change, "seed": 0} for name, change in PRUNED.items()}, jobs)


@app.command()
def scores(data: Folder, only: Only = None) -> None:
    """Export each model, and print how far it agrees with PyTorch, and the BLEU and chrF2 of all on the test set."""
    from secateur import export_seq2seq, tasks
    from secateur.measure.evaluation import encoded
    from secateur.measure.evaluation import scores as scores_of
    from secateur.surgery.opening import open_model, open_tokenizer

    for name, place in places(data, only).items():
        options: dict[str, Any] = {"runtimes": RUNTIMES, "dtypes": DTYPES, "overwrite": True}
        written = export_seq2seq(open_model(place), SERVED / name, tokenizer=open_tokenizer(place), **options)
        for one in written.files:
            found = one.agreement
            equal = f"{found.equal} of {found.texts} texts equal"
            print(f"{name}, {one.runtime} {one.dtype}: {one.bytes / 1e6:.2f} MB, {found.difference:.1e}, {equal}")
    writers, tokenizer = opened(places(data, only)), open_tokenizer(places(data)["dense"])
    options = {**heads.COLUMNS["translation"], **heads.SCORED["translation"]}
    task = tasks.TASKS.get("translation").from_data(str(data / heads.FOLDERS["translation"]), **options)
    rows = encoded(task, "validation", tokenizer, heads.TASKS["translation"]["data.max_length"])
    print(f"\n| model | runtime | dtype | BLEU | chrF2 |\n|{' --- |' * 5}")
    for key, writer in writers.items():
        said = scores_of(writer, task, rows, tokenizer)
        print(f"| {' | '.join(key)} | {said['bleu']:.2f} | {said['chrf']:.2f} |", flush=True)


@app.command()
def times(data: Folder, sentences: int = 100, threads: int = 2) -> None:
    """Print milliseconds a sentence of each, and speed-ups over the dense model, in the same runtime and in PyTorch."""
    import torch
    from datasets import load_dataset

    from secateur.surgery.opening import open_tokenizer

    torch.set_num_threads(threads)
    writers, tokenizer = opened(places(data)), open_tokenizer(places(data)["dense"])
    file = str(data / heads.FOLDERS["translation"] / "test.parquet")
    texts = load_dataset("parquet", data_files=file, split="train")["en"][:sentences]
    rows = [tokenizer(text, return_tensors="pt") for text in texts]
    head = (
        "| model | runtime | dtype | beams | ms a sentence | against dense, same runtime | against dense in PyTorch |"
    )
    print(f"\n{head}\n|{' --- |' * 7}")
    for beams in BEAMS:
        with torch.inference_mode():
            spent_on(writers, rows[:3], beams)  # warms up
            spent = spent_on(writers, rows, beams)
        for key, seconds in spent.items():
            _, runtime, dtype = key
            ratios = (spent["dense", runtime, dtype] / seconds, spent["dense", "pytorch", "fp32"] / seconds)
            shown = " | ".join(f"{ratio:.2f}x" for ratio in ratios)
            print(f"| {' | '.join(key)} | {beams} | {1000 * seconds / len(rows):.1f} | {shown} |")


def places(data: Path, only: list[str] | None = None) -> dict[str, Path]:
    """Name of a model -> its folder; of all models, or of some."""
    pruned = {name: ROOT / f"{name} 0" / "model" for name in PRUNED}
    found = {"dense": heads.teacher_of("translation", data), **pruned}
    return {name: place for name, place in found.items() if not only or name in only}


def opened(models: dict[str, Path]) -> Writers:
    """Each model in PyTorch, and in every runtime and dtype to which it was exported."""
    from secateur import open_seq2seq
    from secateur.surgery.opening import open_model

    found: Writers = {}
    for name, place in models.items():
        found[name, "pytorch", "fp32"] = open_model(place).eval()
        found |= {(name, *one): open_seq2seq(SERVED / name, *one) for one in product(RUNTIMES, DTYPES)}
    return found


def spent_on(writers: Writers, rows: list[Any], beams: int) -> dict[tuple[str, str, str], float]:
    """The seconds that each needs for all rows; a row at a time, in turn."""
    spent = dict.fromkeys(writers, 0.0)
    for row in rows:
        for key, writer in writers.items():
            start = time.perf_counter()
            writer.generate(**row, num_beams=beams, do_sample=False, max_new_tokens=60)
            spent[key] += time.perf_counter() - start
    return spent


if __name__ == "__main__":
    app()
