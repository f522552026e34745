"""A small ModernBERT from fine-tuning to files for other runtimes, on SST-2.

    python benchmarks/modernbert.py train --data DIR       the model, its teacher, and the pruned model
    python benchmarks/modernbert.py table                  its scores, and latencies beside the teacher in one process

No ModernBERT of 6 layers and 384 dims is published. This one has the shape, the tokenizer and, where shapes allow, the
weights of MiniLM-L6: its attentions, its feed-forward networks, gated by 1, and its norms, which stand before sublayers
here and after them there. It has to be fine-tuned longer for that, and its score is not that of a trained ModernBERT.
`--data` is a folder with `sst2` (train.parquet and validation.parquet with GLUE's columns).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from runner import Folder, base_model, finished, one, print_row, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/modernbert")
SETTINGS: dict[str, Any] = {
    "data.max_length": 64,
    "method": "grain",
    "target.density": 0.10,
    "training.batch_size": 32,
    "training.epochs": 1.5,
    "training.learning_rate": 5e-4,
    "training.teacher_epochs": 1,
    "training.teacher_learning_rate": 2e-4,
    "training.evaluations": 0,
    "measurement.shapes": [],
}
SHAPES = ((1, 32), (8, 128))


def make(folder: Path) -> None:
    """Save the untrained model, unless it is there."""
    import torch
    from transformers import AutoModel, AutoTokenizer, ModernBertConfig, ModernBertModel

    if (folder / "config.json").is_file():
        return
    source = AutoModel.from_pretrained(base_model(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_model(), model_input_names=["input_ids", "attention_mask"])
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes: dict[str, Any] = {name: getattr(source.config, name) for name in (*same, "max_position_embeddings")}
    sizes |= dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), True)
    special = {"pad": "pad", "cls": "cls", "sep": "sep", "bos": "cls", "eos": "sep"}
    sizes |= {f"{name}_token_id": getattr(tokenizer, f"{own}_token_id") for name, own in special.items()}
    config = ModernBertConfig(**sizes, classifier_pooling="mean")
    torch.manual_seed(0)
    model = ModernBertModel(config)
    missing, _ = model.load_state_dict(_translated(source.state_dict(), config.num_hidden_layers), strict=False)
    print(f"{len(missing)} of {len(model.state_dict())} tensors are random")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _translated(bert: dict[str, Any], layers: int) -> dict[str, Any]:
    """The weights of a BERT under the names of a ModernBERT."""
    import torch

    own = {"embeddings.tok_embeddings.weight": bert["embeddings.word_embeddings.weight"]}
    own |= _both("embeddings.norm", bert, "embeddings.LayerNorm")
    for layer in range(layers):
        there, here = f"encoder.layer.{layer}", f"layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [bert[f"{there}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            own[f"{here}.attn.Wqkv.{kind}"] = torch.cat(parts)
            up = bert[f"{there}.intermediate.dense.{kind}"]
            gate = torch.ones_like(up) if kind == "bias" else torch.zeros_like(up)
            own[f"{here}.mlp.Wi.{kind}"] = torch.cat([up, gate])
        own |= _both(f"{here}.attn.Wo", bert, f"{there}.attention.output.dense")
        own |= _both(f"{here}.mlp.Wo", bert, f"{there}.output.dense")
        own |= _both(f"{here}.mlp_norm", bert, f"{there}.attention.output.LayerNorm")
        after = f"layers.{layer + 1}.attn_norm" if layer + 1 < layers else "final_norm"
        own |= _both(after, bert, f"{there}.output.LayerNorm")
    return own


def _both(here: str, bert: dict[str, Any], there: str) -> dict[str, Any]:
    return {f"{here}.{kind}": bert[f"{there}.{kind}"] for kind in ("weight", "bias")}


def subset(data: Path, folder: Path, rows: int) -> Path:
    """A data folder with so many rows of a training set, and all of its validation set."""
    from datasets import Dataset

    if not folder.is_dir():
        folder.mkdir(parents=True)
        Dataset.from_parquet(str(data / "train.parquet")).shuffle(seed=0).select(range(rows)).to_parquet(
            folder / "train.parquet"
        )
        Dataset.from_parquet(str(data / "validation.parquet")).to_parquet(folder / "validation.parquet")
    return folder


@app.command()
def train(data: Folder, seed: int = 0, rows: int = 16_000, threads: int = 2) -> None:
    """Make the model, fine-tune it, and prune it, on some rows of the training set."""
    make(RUNS / "model")
    own = subset(data / "sst2", RUNS / f"data-{rows}", rows)
    values = {**SETTINGS, "model": str(RUNS / "model"), "data": str(own), "seed": seed}
    one(RUNS / f"sst2-{seed}", values, RUNS / "cache", threads)


@app.command()
def table(repeats: int = 30) -> None:
    """Measure each finished run, in PyTorch, ONNX Runtime and OpenVINO, in turn with its teacher."""
    from transformers import AutoModelForSequenceClassification

    from secateur import load, measure
    from secateur.report.report import Report

    runtimes = ("pytorch", "onnxruntime", "openvino")
    print_row(["run", "teacher", "score", "seconds", *(f"{r}, {b} x {t}" for r in runtimes for b, t in SHAPES)])
    print_row(["---"] * (4 + len(runtimes) * len(SHAPES)))
    for folder in finished(sorted(RUNS.glob("sst2-*"))):
        report, small = Report.load(folder), load(folder / "model")
        dense = AutoModelForSequenceClassification.from_pretrained(RUNS / "cache" / "teacher")
        times = [
            measure(small, dense, batch=batch, tokens=tokens, runtime=runtime, repeats=repeats)
            for runtime in runtimes
            for batch, tokens in SHAPES
        ]
        scores = f"{report.teacher_scores[report.metric]:.4f}", f"{report.scores[report.metric]:.4f}"
        print_row([folder.name, *scores, f"{sum(report.seconds.values()):.0f}", *timings(times)])


if __name__ == "__main__":
    app()
