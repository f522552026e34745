"""What pruning decoders of 1 to 70 billion parameters costs: reckoned from counts and one measured step.

    python benchmarks/scale.py step                         a small decoder's step, against products of matrices
    python benchmarks/scale.py table RATIO                  the table, in Markdown

Counts are those of `structure/cost`, over models without weights. A step that listens computes five forwards' worth of
products for each token: 3 of the student (one forward, and two of its size backward), 1 of the teacher, and 1 for the
gradient of the masks. `step` measures how much longer than these products alone a whole step takes, on one thread of
this machine; that is the ratio of `table`. Everything else in the table is reckoned.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.structure import cost
from secateur.structure.binding import bind
from secateur.training.objectives import Labels, Logits
from secateur.training.trainer import PruningTrainer

app = typer.Typer(add_completion=False)
FORWARDS = 5.0
"""Of products, in a step of student, teacher and evidence."""
SHAPES: dict[str, dict[str, Any]] = {
    "1 B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    | {"num_key_value_heads": 4, "vocab_size": 32000},
    "3 B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"num_key_value_heads": 8, "vocab_size": 128256},
    "7 B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 32, "vocab_size": 32000},
    "13 B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
    | {"num_key_value_heads": 40, "vocab_size": 32000},
    "70 B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    | {"num_key_value_heads": 8, "vocab_size": 128256},
}
"""Shapes of public decoders of about that size, with separate input and output embeddings."""
SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}
SMALL |= {"num_key_value_heads": 4, "vocab_size": 1024}
ROWS, LENGTH, STEPS = 4, 128, 8
SPLIT, HOST, SAVED = 20, 16, 12
"""Bytes for each parameter: split among GPUs (weight, gradient and two moments of the student in float32, weight of the
teacher), in the memory of the host of the main process (student, teacher and two moments), and in a checkpoint."""


@dataclass(frozen=True)
class Counts:
    """Of a decoder.

    Attributes:
        parameters: of the whole model.
        flops: floating-point operations of one forward, for each token of a text.
        gathered: the most parameters that a process holds whole at once: two layers, and what is in no layer.
    """

    parameters: int
    flops: float
    gathered: int


def counts(shape: dict[str, Any], tokens: int) -> Counts:
    """Of a decoder of this shape, whose texts have so many tokens."""
    with torch.device("meta"):
        table = bind(LlamaForCausalLM(LlamaConfig(**shape)))
    full, whole = cost.full(table), cost.total(table, "model")
    outside = whole - cost.total(table, "layers")
    output = 2.0 * shape["vocab_size"] * shape["hidden_size"]
    flops = float(cost.flops(table, full, tokens)) / tokens + output
    return Counts(whole, flops, outside + 2 * (whole - outside) // shape["num_hidden_layers"])


class Clock(TrainerCallback):
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def rate(size: int = 1024, times: int = 20) -> float:
    """Floating-point operations a second in the fastest of some products of square matrices, in float32."""
    left, right = torch.rand(2, size, size)
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds)


def seconds_of_step(folder: str) -> float:
    """The fastest of some steps in which GRAIN listens, of a small decoder with its teacher."""
    torch.manual_seed(0)
    student, teacher = (LlamaForCausalLM(LlamaConfig(**SMALL)) for _ in range(2))
    texts = torch.randint(3, SMALL["vocab_size"], (ROWS * STEPS, LENGTH))
    rows = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in texts]
    clock = Clock()
    PruningTrainer(
        student,
        method=Grain(Space(student, "ffn", "qk", "vo"), cubic(1.0, 0.5, begin=0.9, end=1.0)),
        teacher=teacher,
        objective=[Labels(), Logits(temperature=2.0)],
        args=TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        callbacks=[clock],
    ).train()
    return min(clock.seconds[1:])


@app.command()
def step() -> None:
    """Measure a step of a small decoder, and the products that it is made of."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    own, speed = counts(SMALL, LENGTH), rate()
    with tempfile.TemporaryDirectory() as folder:
        seconds = seconds_of_step(folder)
    speed = max(speed, rate())
    products = FORWARDS * own.flops * ROWS * LENGTH / speed
    print(f"{own.parameters / 1e6:.1f} M parameters, {ROWS} x {LENGTH} tokens, {torch.get_num_threads()} thread(s)")
    print(f"products of 1024 x 1024: {speed / 1e9:.1f} GFLOP/s; those of a step: {products:.2f} s")
    print(f"a step: {seconds:.2f} s, ratio {seconds / products:.2f}")


@app.command()
def table(ratio: float, tokens: int = 2048, memory: float = 80.0, share: float = 0.7, tflops: float = 400.0) -> None:
    """Print the table.

    Args:
        ratio: of a step's time to that of its products (`step`).
        tokens: of a text.
        memory: of a GPU, in GB.
        share: of it for weights and their moments; the rest is for activations.
        tflops: of a GPU in large products in bf16, which should be measured (`secateur bench`).
    """
    print("| shape | parameters, B | GFLOP a token | split, GB | GPUs | host, GB | checkpoint, GB | GPU hours |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, shape in SHAPES.items():
        own = counts(shape, tokens)
        free = share * memory * 1e9 - 2 * own.gathered - 4 * own.gathered  # in bf16, and their gradients
        gpus = math.ceil(SPLIT * own.parameters / free)
        hours = FORWARDS * own.flops * 1e9 * ratio / (tflops * 1e12) / 3600
        gigabytes = [round(size * own.parameters / 1e9) for size in (SPLIT, HOST, SAVED)]
        cells = [f"{own.parameters / 1e9:.2f}", f"{FORWARDS * own.flops / 1e9:.0f}", f"{gigabytes[0]:,}", gpus]
        cells += [f"{gigabytes[1]:,}", f"{gigabytes[2]:,}", f"{hours:,.0f}"]
        print(f"| {name} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    app()
