"""How fast pruned encoders of several families run at their real sizes, beside the dense models, with random weights.

    python benchmarks/families.py [--only NAME] [--threads 2] [--repeats 10]
    python benchmarks/families.py --tiny                                         the same at tiny sizes, in seconds

Each family is cut to 5% of the parameters of its layers, with heads and neurons spread as published ones of GRAIN are,
and then also to 30,000 pieces of its vocabulary. Latency depends on sizes alone. The models of a family run in turn in
one process, so that a ratio compares neighbours in time; run it on an idle machine. Rows are printed as they are
measured, and `runs/families/table.json` has all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from inference import grain_like
from runner import print_row
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

import secateur as sec
from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.surgery.vocabulary.token_numbers import token_numbers

app = typer.Typer(add_completion=False)
OUT = Path("runs/families")
RUNTIMES = ("pytorch", "onnxruntime", "openvino")
SHAPES = ((1, 128), (8, 128))
DENSITY, PIECES = 0.05, 30_000
HEADS, QK, VO = 21 / 144, 28.8 / 64, 32.9 / 64
"""Of all heads those that are kept, and their mean dims: MNLI in Table 6 of GRAIN's paper, with few heads."""
MOST = 10_240
"""Tokens of all timed forwards at one shape: short forwards are repeated more often."""


@dataclass(frozen=True)
class Family:
    """A family at its real size.

    Attributes:
        kind: its `model_type`.
        sizes: keys of the config that differ from the family's defaults.
        longer: further shapes (batch, tokens).
    """

    kind: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    longer: tuple[tuple[int, int], ...] = ()


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
DEBERTA_V3 = BASE | {
    "vocab_size": 128_100,
    "type_vocab_size": 0,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
FAMILIES = {
    "XLM-R-base": Family(
        "xlm-roberta", BASE | {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1}
    ),
    "DeBERTa-v3-base": Family("deberta-v2", DEBERTA_V3),
    "ModernBERT-base": Family("modernbert", longer=((8, 1024),)),
}
TINY = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}


def dense_model(family: Family, tiny: bool) -> PreTrainedModel:
    """A classifier of the family with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.kind, **{**family.sizes, **(TINY if tiny else {})})
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


def plan_of(model: PreTrainedModel) -> Plan:
    """A plan at `DENSITY` of the layers: a part of the heads, and as many neurons as then reach it."""
    table = UnitSpace(model, "ffn").table
    layers, dim = len(table.layers), table.head_dim
    shape = partial(grain_like, model, layers, round(HEADS * layers * table.heads), QK * dim, VO * dim)
    least, most = 1.0, float(table.sizes["0.ffn"])
    for _ in range(12):
        middle = (least + most) / 2
        few = shape(middle).achieved["layers"] < DENSITY
        least, most = (middle, most) if few else (least, middle)
    return shape(least)


def models_of(family: Family, tiny: bool) -> dict[str, PreTrainedModel]:
    """Name -> the dense model, the pruned one, and that with some pieces of the vocabulary."""
    dense = dense_model(family, tiny)
    plan = plan_of(dense)
    small = sec.cut(dense, plan)
    size = dense.config.vocab_size
    kept = sorted(token_numbers(dense) | {*range(PIECES)})
    fewer = with_pieces(small, Vocabulary(size, tuple(kept)))
    return {"dense": dense, f"{plan.achieved['layers']:.3f}": small, f"the same, {len(kept):,} pieces": fewer}


@app.command()
def table(only: str = "", threads: int = 2, repeats: int = 10, tiny: bool = False) -> None:
    """Parameters, MB and latencies of all families, or of those with `only` in their names."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name in (name for name in FAMILIES if only in name):
        family = FAMILIES[name]
        shapes = [*SHAPES, *family.longer]
        models = models_of(family, tiny)
        _print_sizes(name, models)
        print_row(["runtime", "model", *(f"{batch} x {tokens}" for batch, tokens in shapes), "MB"])
        print_row(["---"] * (3 + len(shapes)))
        for runtime in RUNTIMES:
            found = benchmark(
                models,
                dense="dense",
                runtimes=[runtime],
                shapes=shapes,
                repeats=lambda shape: max(repeats, min(4 * repeats, MOST // (shape[0] * shape[1]))),
                warmup=2,
                threads=threads,
                peak_memory=False,
            )
            _print(found, runtime, list(models), shapes)
            results.setdefault(name, []).extend(one.to_dict() for one in found)
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "table.json").write_text(json.dumps(results, indent=1) + "\n")


def _print_sizes(name: str, models: Mapping[str, PreTrainedModel]) -> None:
    """Parameters of the whole model, of its word embeddings, and of the rest, in millions."""
    print(f"\n{name}\n")
    print_row(["model", "parameters, M", "word embeddings, M", "others, M"])
    print_row(["---"] * 4)
    for label, model in models.items():
        whole, words = model.num_parameters(), sum(p.numel() for p in model.get_input_embeddings().parameters())
        print_row([label, *(f"{count / 1e6:.1f}" for count in (whole, words, whole - words))])
    print()


def _print(
    results: Sequence[BenchmarkResult], runtime: str, names: Sequence[str], shapes: Sequence[tuple[int, int]]
) -> None:
    """A row for each model in a runtime: milliseconds, and the dense model's in the same runtime over them."""
    for name in names:
        own = {(r.batch, r.tokens): r for r in results if r.runtime == runtime and r.model == name}
        cells = [f"{own[shape].latency_ms:.1f}, {own[shape].speed_up or 1.0:.1f}x" for shape in shapes]
        print_row([runtime, name, *cells, f"{own[shapes[0]].bytes / 1e6:.0f}"])


if __name__ == "__main__":
    app()
