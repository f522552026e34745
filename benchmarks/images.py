"""A small ViT on scikit-learn's digits: GRAIN and magnitude at three densities, on a CPU in minutes.

    python benchmarks/images.py train     the images, the teacher, and every row, one folder each
    python benchmarks/images.py table     the table, in Markdown

The 1,797 digits of scikit-learn, 8 x 8 pixels, are enlarged to 32 x 32; the last fifth of each class is scored. The
teacher is a random ViT (3 layers of 48 dims, patches of 8 x 8: 17 tokens), trained from scratch on them, because no
weights of a ViT are at hand. A row has the defaults of `secateur prune`, but for the lengths in `LENGTHS`. Finished
rows are not repeated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from runner import finished, one, print_row

app = typer.Typer(add_completion=False)
RUNS = Path("runs/images")
SIZE, PATCH = 32, 8
SHAPE: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
METHODS, DENSITIES = ("grain", "magnitude"), (0.4, 0.2, 0.05)
LENGTHS: dict[str, Any] = {
    "training.teacher_epochs": 30,
    "training.teacher_learning_rate": 1e-3,
    "training.epochs": 15,
    "training.learning_rate": 1e-3,
    "training.evaluations": 0,
}


@app.command()
def train(runs: Path = RUNS, threads: int = 1) -> None:
    """Write the images and the model, train the teacher, and do every row that is not finished."""
    if not (runs / "data").is_dir():
        write_images(runs / "data")
    if not (runs / "model").is_dir():
        write_model(runs / "model")
    base = {"model": str(runs / "model"), "data": str(runs / "data"), **LENGTHS}
    one(runs / "teacher-run", base, runs, threads, "teacher")  # which the rows share
    for method, density in rows():
        folder = runs / f"{method}-{density:g}"
        if not finished([folder]):
            own = {"method.name": method, "target.density": density}
            one(folder, base | own, runs, threads)


@app.command()
def table(runs: Path = RUNS) -> None:
    """Print a row for each finished run."""
    head = ["density", "method", "accuracy", "standard error", "teacher", "parameters", "ms, dense and cut", ""]
    head += ["seconds"]
    print_row(head)
    print_row(["---"] * len(head))
    for method, density in rows():
        for folder in finished([runs / f"{method}-{density:g}"]):
            report = json.loads((folder / "report.json").read_text())
            timed = report["latency"][-1]
            scores = f"{report['scores']['accuracy']:.4f}", f"{report['standard_error']:.4f}"
            times = f"{timed['against']['latency_ms']:.1f}, {timed['latency_ms']:.1f}", f"{timed['speed_up']:.2f}x"
            counts = f"{report['teacher_scores']['accuracy']:.4f}", f"{report['parameters']['model']:,}"
            print_row([str(density), method, *scores, *counts, *times, f"{sum(report['seconds'].values()):.0f}"])


def rows() -> list[tuple[str, float]]:
    """The method and the density of each row."""
    return [(method, density) for density in DENSITIES for method in METHODS]


def write_images(folder: Path) -> None:
    """The digits as PNG files: `train/3/0007.png`, and the last fifth of each class in `validation`."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for digit in range(10):
        own = np.flatnonzero(digits.target == digit)
        for place, number in enumerate(own):
            split = "train" if place < 0.8 * len(own) else "validation"
            path = folder / split / str(digit) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)


def write_model(folder: Path) -> None:
    """A random ViT without a head, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(**SHAPE, image_size=SIZE, patch_size=PATCH)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


if __name__ == "__main__":
    app()
