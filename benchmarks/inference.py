"""How fast compact models run: BERT-base with published structures at 5%, and a real pruned model, in every runtime.

    python benchmarks/inference.py table   [--real FOLDER ... --dense FOLDER]   the table of RESULTS.md
    python benchmarks/inference.py depths                                       the same 5% in 12, 6, 4 and 3 layers
    python benchmarks/inference.py scores  DATA FOLDER ...                      the score in each runtime and dtype
    python benchmarks/inference.py layouts                                      ways to run heads of different sizes
    python benchmarks/inference.py exchanges                                    without LayerNorm, with ReLU for GELU
    python benchmarks/inference.py costs                                        the numbers of `KernelCosts`
    python benchmarks/inference.py profile                                      time by kind of operation

BERT-base has random weights, because latency does not depend on them. Run it on an idle machine.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import typer
from scipy.optimize import nnls
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

import secateur as sec
from secateur.budget.space import Space
from secateur.deploy.graph import as_arrays, input_names
from secateur.deploy.runner import runner
from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.measure.evaluation import batches, encoded, runner_scores
from secateur.structure.head_buckets import BATCH, TOKENS, Layout
from secateur.structure.plan import Plan
from secateur.surgery.compact.attention_calls import EncoderAttention
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.surgery.schema import AttentionStructure
from secateur.tasks import TASKS

app = typer.Typer(add_completion=False)
OUT = Path("runs/inference")
SHAPES = ((1, 32), (1, 128), (8, 128), (32, 128))
RUNTIMES = {
    "pytorch": (("fp32", "bf16"), SHAPES),
    "compiled": (("fp32",), SHAPES[1:3]),  # each shape of each model compiles for some ten seconds
    "onnxruntime": (("fp32", "int8"), SHAPES),
    "openvino": (("fp32", "bf16", "int8"), SHAPES),
}
"""Dtypes and shapes (batch, tokens) of each runtime."""
SCORED = (
    ("pytorch", "fp32", ""),
    ("pytorch", "bf16", ""),
    ("onnxruntime", "fp32", ""),
    ("onnxruntime", "int8", ""),
    ("onnxruntime", "int8", ", calibrated"),
    ("openvino", "fp32", ""),
    ("openvino", "bf16", ""),
    ("openvino", "int8", ", calibrated"),
)
"""Runtimes and dtypes that are scored; the ranges of int8 come from each batch, or from training rows."""
MOST = 10_240
"""Tokens of all timed forwards at one shape, of which there are at most 40: short forwards need more repeats."""
GRAIN = {
    # MNLI in Table 6 of the paper: layers with attention, heads, mean QK and VO dims of a head, mean neurons a layer.
    "GRAIN-like, few heads": (11, 21, 28.8, 32.9, 122.5),
    "GRAIN-like, many heads": (12, 86, 9.0, 8.6, 103.9),
}
DEPTHS = (12, 6, 4, 3)
"""Layers into which the same heads and neurons are put."""
COFI = ((3, 600), (3, 400), (2, 250), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (1, 0), (1, 100))
"""Heads and neurons of each layer: early and last sublayers are kept, those in the middle removed (the authors' talk);
764 of 768 hidden dims, as in their MNLI model at 95%."""


# Structures


def dense_base() -> PreTrainedModel:
    """BERT-base with random weights."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig()).eval()


def grain_like(
    model: PreTrainedModel, layers: int, heads: int, qk: float, vo: float, ffn: float, depth: int | None = None
) -> Plan:
    """A plan whose sizes are spread evenly from 0.5 to 1.5 times the mean, in a random order.

    Args:
        layers: that keep attention.
        heads, qk, vo, ffn: the number of heads, the mean dims of a head, and the mean neurons of all layers.
        depth: the layers that are kept, with the neurons of all; by default all.
    """
    space, noise = Space(model, "layer", "ffn", "qk", "vo"), torch.Generator().manual_seed(0)
    masks, total = torch.zeros(len(space)), len(space.table.layers)
    depth = depth or total
    for layer in range(depth):
        masks[space.slices[f"{layer}.layer"]] = 1.0

    def spread(mean: float, count: int, most: int) -> list[int]:
        sizes = torch.linspace(0.5, 1.5, count)[torch.randperm(count, generator=noise)] * mean
        return sizes.round().clamp(1, most).int().tolist()

    neurons = spread(ffn * total / depth, depth, space.table.sizes["0.ffn"])
    sizes = {"qk": spread(qk, heads, space.table.head_dim), "vo": spread(vo, heads, space.table.head_dim)}
    for layer, count in enumerate(neurons):
        _keep(masks, space.slices[f"{layer}.ffn"], 0, count)
    for number in range(heads):
        layer, head = number % layers, number // layers
        for name, own in sizes.items():
            rows = space.slices[f"{layer}.{name}"]
            units = (
                rows.stop - rows.start
            ) // space.table.heads  # half as many as dims where they are rotated in pairs
            _keep(masks, rows, head * units, round(own[number] * units / space.table.head_dim))
    return Plan.of(space, masks)


def cofi_like(model: PreTrainedModel) -> Plan:
    """A plan without some heads, neurons, whole sublayers and four hidden dims."""
    space = Space(model, "hidden", "head", "sublayer", "ffn")
    masks = torch.zeros(len(space))
    _keep(masks, space.slices["hidden"], 0, 764)
    for layer, (heads, neurons) in enumerate(COFI):
        _keep(masks, space.slices[f"{layer}.head"], 0, heads)
        _keep(masks, space.slices[f"{layer}.ffn"], 0, neurons)
        _keep(masks, space.slices[f"{layer}.attention"], 0, int(heads > 0))
        _keep(masks, space.slices[f"{layer}.mlp"], 0, int(neurons > 0))
    return Plan.of(space, masks)


def _keep(masks: Tensor, rows: slice, first: int, count: int) -> None:
    masks[rows.start + first : rows.start + first + count] = 1.0


def depths(model: PreTrainedModel) -> dict[str, Plan]:
    """The heads and neurons of the published structure with few heads, in fewer layers."""
    layers, heads, qk, vo, ffn = GRAIN["GRAIN-like, few heads"]
    return {
        f"{depth} of 12 layers": grain_like(model, min(layers, depth), heads, qk, vo, ffn, depth) for depth in DEPTHS
    }


def structures(model: PreTrainedModel) -> dict[str, Plan]:
    """The plans of the table for BERT-base."""
    plans = {name: grain_like(model, *sizes) for name, sizes in GRAIN.items()}
    return plans | {"CoFi-like": cofi_like(model)}


# The table


@app.command()
def table(
    real: list[Path] | None = None,
    dense: Path | None = None,
    threads: int = 2,
    repeats: int = 7,
    memory: bool = True,
    only: str = "",
) -> None:
    """Latencies, speed-ups and distances from the roofline; `real` are folders of models cut from `dense`."""
    base = dense_base()
    groups = [{"dense": base} | _cut(base, structures(base))]
    if real and dense is not None:
        teacher = BertForSequenceClassification.from_pretrained(dense, dtype=torch.float32).eval()
        groups.append({"dense MiniLM": teacher} | {place.parent.name: sec.load(place) for place in real})
    print("| runtime | model | " + " | ".join(f"{b} x {t}, ms" for b, t in SHAPES) + " | roofline | MB | peak, MB |")
    print("|" + " --- |" * (5 + len(SHAPES)))
    results: list[BenchmarkResult] = []
    for models in groups:
        for runtime in (name for name in RUNTIMES if name.startswith(only)):
            results += _benchmark(models, runtime, threads, repeats, memory)
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "table.json").write_text(json.dumps([one.to_dict() for one in results], indent=1) + "\n")


@app.command(name="depths")
def depths_table(threads: int = 2, repeats: int = 10) -> None:
    """The latencies of models of the same size and another depth, in float32."""
    base = dense_base()
    models = {"dense": base} | _cut(base, depths(base))
    print("| runtime | model | 1 x 128, ms | 8 x 128, ms |\n| --- | --- | --- | --- |")
    for runtime in ("pytorch", "onnxruntime", "openvino"):
        results = benchmark(
            models,
            dense="dense",
            runtimes=[runtime],
            dtypes=["fp32"],
            shapes=SHAPES[1:3],
            repeats=lambda shape: 4 * repeats if shape[0] == 1 else repeats,
            warmup=2,
            threads=threads,
            peak_memory=False,
        )
        for name in models:
            cells = [_cell(one) for one in results if one.model == name and one.runtime == runtime]
            print("| " + " | ".join([runtime, name, *cells]) + " |", flush=True)


def _cut(base: PreTrainedModel, plans: Mapping[str, Plan]) -> dict[str, PreTrainedModel]:
    """The models of some plans, whose densities are printed."""
    density = {name: plan.achieved["layers"] for name, plan in plans.items()}
    print("densities of all layers:", {name: f"{one:.4f} = 1/{1 / one:.1f}" for name, one in density.items()})
    return {name: sec.cut(base, plan) for name, plan in plans.items()}


def _benchmark(
    models: Mapping[str, PreTrainedModel], runtime: str, threads: int, repeats: int, memory: bool
) -> list[BenchmarkResult]:
    """Measure and print all models, dtypes and shapes of one runtime in turn, with the dense model in PyTorch fp32."""
    dtypes, shapes = RUNTIMES[runtime]
    results = benchmark(
        models,
        dense=next(iter(models)),
        runtimes=[runtime],
        dtypes=dtypes,
        shapes=shapes,
        repeats=lambda shape: max(repeats, min(40, MOST // (shape[0] * shape[1]))),
        warmup=2,
        threads=threads,
        peak_memory=memory,
    )
    _print(results)
    return results


def _print(results: Sequence[BenchmarkResult]) -> None:
    """A row for each model, runtime and dtype: at each shape ms, speed-up in this runtime, and over PyTorch fp32."""
    rows: dict[tuple[str, str, str], dict[tuple[int, int], BenchmarkResult]] = {
        key: {} for key in dict.fromkeys((one.runtime, one.dtype, one.model) for one in results)
    }
    for one in results:
        rows[one.runtime, one.dtype, one.model][one.batch, one.tokens] = one
    for (runtime, dtype, model), by_shape in rows.items():
        cells = [f"{runtime} {dtype}", model, *(_cell(by_shape.get(shape)) for shape in SHAPES)]
        last = list(by_shape.values())[-1]
        middle = by_shape.get((8, 128))
        cells.append(f"{middle.over_floor:.1f}" if middle is not None and middle.over_floor else "")
        cells.append(f"{last.bytes / 1e6:.0f}")
        cells.append(f"{last.peak.model / 1e6:.0f}" if last.peak else "")
        print("| " + " | ".join(cells) + " |", flush=True)


def _cell(one: BenchmarkResult | None) -> str:
    if one is None:
        return ""
    ratios = [f"{ratio:.1f}x" for ratio in (one.speed_up, one.speed_up_baseline) if ratio is not None]
    return ", ".join([f"{one.latency_ms:.1f}", *ratios])


# Scores


@app.command()
def scores(data: str, folders: list[Path], max_length: int = 64, threads: int = 1) -> None:
    """The score of each model in each runtime and dtype; int8 also calibrated on 256 training rows."""
    task = TASKS.get("classification").from_data(data, metric=None, seed=0, rows=None)
    print(f"| runtime | {' | '.join(folder.parent.name for folder in folders)} |")
    print("|" + " --- |" * (1 + len(folders)))
    rows_of_table: dict[str, list[str]] = {}
    for folder in folders:
        model, tokenizer = open_model(folder), open_tokenizer(folder)
        rows = encoded(task, "validation", tokenizer, max_length)
        ranges = batches(task, encoded(task, "train", tokenizer, max_length)[:256], tokenizer, limit=256)
        for runtime, dtype, calibration in SCORED:
            run = runner(model, runtime, dtype, threads=threads, calibration=ranges if calibration else None)
            score = runner_scores(run, task, rows, tokenizer)[task.metric]
            rows_of_table.setdefault(f"{run.version}, {dtype}{calibration}", []).append(f"{score:.4f}")
    for name, cells in rows_of_table.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


# Layouts


def _loop(qk: Sequence[int]) -> Layout:
    return Layout(tuple((head,) for head in range(len(qk))))


def _halves(qk: Sequence[int], vo: Sequence[int]) -> Layout:
    ranked = sorted(range(len(qk)), key=lambda head: qk[head] + vo[head])
    middle = (len(qk) + 1) // 2
    return Layout(tuple(tuple(part) for part in (ranked[:middle], ranked[middle:]) if part), 8)


LAYOUTS: dict[str, Callable[[list[int], list[int]], Layout]] = {
    "one call a head": lambda qk, vo: _loop(qk),
    "padded to the widest": lambda qk, vo: Layout.single(len(qk)),
    **{
        f"the same, to {n}": partial(lambda n, qk, vo: replace(Layout.single(len(qk)), multiple=n), n)
        for n in (4, 8, 16)
    },
    "two buckets, to 8": _halves,
}


class Separate(EncoderAttention):
    """An attention whose query, key and value are three matrix products, not one."""

    def _joins(self, hidden_states: Tensor) -> bool:
        return False


def laid_out(model: PreTrainedModel, plan: Plan, layout: str, fused: bool = True) -> PreTrainedModel:
    """The model cut by a plan with another layout of heads; "chosen" keeps that of the plan."""
    if layout != "chosen":
        space = plan.space(model)
        reading = plan.read(space)
        plan = replace(
            plan, layouts=tuple(LAYOUTS[layout](*reading.head_sizes(n)) for n in range(len(space.table.layers)))
        )
    small = sec.cut(model, plan)
    for module in small.modules():
        if isinstance(module, EncoderAttention) and not fused:
            module.__class__ = Separate
    return small


@app.command()
def layouts(
    threads: int = 2, repeats: int = 20, only: str = "", runtimes: str = "pytorch,onnxruntime,openvino"
) -> None:
    """Milliseconds of each layout, interleaved, by structure (those with `only` in the name), runtime and shape."""
    base = dense_base()
    for name, plan in ((n, p) for n, p in structures(base).items() if n in GRAIN and only in n):
        small = {"padded, Q, K, V apart": laid_out(base, plan, "padded to the widest", fused=False)}
        small |= {layout: laid_out(base, plan, layout) for layout in (*LAYOUTS, "chosen")}
        print(f"\n{name}\n| | " + " | ".join(small) + " |\n|" + " --- |" * (1 + len(small)))
        for runtime, dtype in product(runtimes.split(","), ("fp32",)):
            ready = [runner(one, runtime, dtype, threads=threads) for one in small.values()]
            for batch, tokens in SHAPES[:3]:
                turns = max(6, repeats // batch)
                times = _in_turn([partial(one, _ids(batch, tokens)) for one in ready], turns)
                cells = [f"{one:.2f}" for one in times]
                print(f"| {runtime} {dtype} {batch} x {tokens} | " + " | ".join(cells) + " |", flush=True)


def _ids(batch: int, tokens: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 30000, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The median milliseconds of each call; the calls are interleaved."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 2):
        for call, own in zip(calls, times, strict=True):
            call()
            begin = time.perf_counter()
            call()
            if turn > 1:
                own.append(1000 * (time.perf_counter() - begin))
    return [median(own) for own in times]


# Cheaper norms and activations


class NoNorm(torch.nn.Module):
    """NoNorm, which replaces LayerNorm by a factor and a shift for each hidden dim (block movement pruning)."""

    def __init__(self, norm: torch.nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.addcmul(self.bias, hidden_states, self.weight)


def exchanged(model: PreTrainedModel, norms: bool, activations: bool) -> PreTrainedModel:
    """A copy of a BERT without LayerNorms, with ReLU in its feed-forward networks, or both."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if norms and isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, NoNorm(child))
            if activations and name == "intermediate_act_fn":
                setattr(module, name, torch.nn.ReLU())
    return model


@app.command()
def exchanges(
    threads: int = 2, repeats: int = 20, only: str = "", runtimes: str = "pytorch,onnxruntime,openvino"
) -> None:
    """Milliseconds, interleaved, of BERT-base and its structures (`only` in the name) with NoNorm, ReLU, and both."""
    base = dense_base()
    ways = {"as it is": (False, False), "NoNorm": (True, False), "ReLU": (False, True), "both": (True, True)}
    print("| model | runtime and shape | " + " | ".join(ways) + " |\n|" + " --- |" * (2 + len(ways)))
    models = {"dense": base, **{name: sec.cut(base, plan) for name, plan in structures(base).items()}}
    for name, model in ((name, model) for name, model in models.items() if only in name):
        changed = [exchanged(model, *way) for way in ways.values()]
        for runtime in runtimes.split(","):
            ready = [runner(one, runtime, "fp32", threads=threads) for one in changed]
            for batch, tokens in ((1, 128), (8, 128)):
                times = _in_turn([partial(one, _ids(batch, tokens)) for one in ready], max(6, repeats // batch))
                cells = [f"{times[0]:.1f}", *(f"{one:.1f}, {times[0] / one:.2f}x" for one in times[1:])]
                print(f"| {name} | {runtime}, {batch} x {tokens} | " + " | ".join(cells) + " |", flush=True)


@app.command()
@torch.inference_mode()
def costs(threads: int = 2, repeats: int = 15) -> None:
    """Fit `head_buckets.KernelCosts` to attentions of many sizes and bucket counts at `BATCH` x `TOKENS`.

    Also fitted are the cost of a head (its softmax) and of everything else, which do not depend on the layout.
    """
    torch.set_num_threads(threads)
    cases = list(product((256, 768), (1, 2, 4), (1, 2, 4), (8, 16, 32, 64)))
    times = np.array(_in_turn([_attention(*case) for case in cases], repeats)) / 1000
    tokens = BATCH * TOKENS
    rows = np.array(
        [
            [buckets, 8 * tokens * hidden * heads * width, 4 * tokens * TOKENS * heads * width, heads, 1.0]
            for hidden, buckets, in_each, width in cases
            for heads in (buckets * in_each,)
        ]
    )
    scale = rows.max(axis=0)
    fitted, _ = nnls(rows / scale / times[:, None], np.ones(len(times)))  # minimises relative errors
    call, project, mix, head, rest = fitted / scale
    print(
        f"call {call:.1e} s, project {1 / project:.1e} and mix {1 / mix:.1e} FLOP/s, head {head:.1e}, else {rest:.1e} s"
    )
    errors = np.abs(rows @ (fitted / scale) / times - 1)
    print(f"relative error: median {np.median(errors):.0%}, largest {errors.max():.0%}")


def _attention(hidden: int, buckets: int, heads: int, width: int) -> Callable[[], Any]:
    """An attention with its output projection, with its heads in buckets as in a cut model."""
    config = BertConfig(num_hidden_layers=1, hidden_size=hidden, num_attention_heads=4)
    stock = BertForSequenceClassification(config).get_submodule("bert.encoder.layer.0.attention.self")
    count = buckets * heads
    for name in ("query", "key", "value"):
        setattr(stock, name, torch.nn.Linear(hidden, count * width))
    structure = AttentionStructure(
        call="encoder",
        query="query",
        key="key",
        value="value",
        output=None,
        causal=False,
        layer=0,
        bias=None,
        dropout="dropout",
        after=None,
        heads=None,
        qk=(width,) * count,
        vo=(width,) * count,
        pairs=None,
        scale=0.125,
        buckets=(heads,) * buckets,
        multiple=1,
        norms=(),
        queries=None,
    )
    attention = EncoderAttention(stock, structure).eval()
    output, stream = torch.nn.Linear(count * width, hidden), torch.randn(BATCH, TOKENS, hidden)
    return lambda: output(attention(stream)[0])


# Time by kind of operation


@app.command()
def profile(threads: int = 2) -> None:
    """Print the share of time of each kind of operation at 1 x 128 and 8 x 128: PyTorch eager and OpenVINO, fp32."""
    base = dense_base()
    for name, plan in structures(base).items():
        small = sec.cut(base, plan)
        for batch in (1, 8):
            print(f"\n{name}, {batch} x 128\n  PyTorch: {_pytorch_profile(small, batch, threads)}")
            print(f"  OpenVINO: {_openvino_profile(small, batch, threads)}", flush=True)


def _pytorch_profile(model: PreTrainedModel, batch: int, threads: int) -> str:
    torch.set_num_threads(threads)
    inputs = {key: torch.from_numpy(value) for key, value in _ids(batch, 128).items()}
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(10):
            model(**inputs)
    return _shares({event.key.removeprefix("aten::"): event.self_cpu_time_total for event in seen.key_averages()})


def _openvino_profile(model: PreTrainedModel, batch: int, threads: int) -> str:
    import openvino

    path = OUT / "profile" / "model.xml"
    sec.export(model, path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": "YES"}
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    inputs, seconds = as_arrays(_ids(batch, 128), input_names(model)), dict[str, float]()
    for turn in range(12):
        request.infer(inputs)
        for node in request.profiling_info if turn > 1 else ():
            seconds[node.node_type] = seconds.get(node.node_type, 0.0) + node.real_time.total_seconds()
    return _shares(seconds)


def _shares(times: Mapping[str, float], most: int = 7) -> str:
    total = sum(times.values())
    ranked = sorted(times.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {own / total:.0%}" for name, own in ranked[:most])


if __name__ == "__main__":
    app()
