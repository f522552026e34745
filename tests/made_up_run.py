"""A made-up finished run: a report, its logs, and a model of two layers that was cut at random."""

import json

import torch
from small_world import config
from transformers import BertForSequenceClassification

from secateur.budget.space import Space
from secateur.report import run_page
from secateur.report.report import Report
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut

PROTOCOL = {
    "batch": 1,
    "tokens": 32,
    "repeats": 50,
    "order": "in turn",
    "threads": 2,
    "dtype": "float32",
    "runtime": "torch eager",
    "machine": "a CPU",
}
DENSE = {"latency_ms": 5.0, "quartiles_ms": [4.9, 5.2]}
REPORT = Report(
    recipe={
        "model": "m",
        "seed": 3,
        "data": {"source": "d"},
        "target": {"density": 0.05},
        "method": {"name": "grain"},
    },
    metric="accuracy",
    teacher_scores={"accuracy": 0.9, "f1": 0.8},
    scores={"accuracy": 0.873, "f1": 0.7},
    rows={"train": 67349, "validation": 1872},
    density={"prunable": 0.0499, "layers": 0.06, "model": 0.5},
    structure=[{"layer": 0, "heads": "2/4", "qk": "3/32", "vo": "5/32", "ffn": "7/48"}, {"layer": "stream"}],
    parameters={"teacher": 22_713_986, "model": 12_000_000},
    weight_bytes={"teacher": 90_855_944, "model": 48_000_000},
    bytes={
        "teacher": {"embeddings": 47_673_600, "layers": 42_588_000, "head": 594_344},
        "model": {"embeddings": 46_000_000, "layers": 1_500_000, "head": 480_000},
    },
    latency=[
        {"latency_ms": 2.0, "quartiles_ms": [1.9, 2.3], "speed_up": 2.5, "against": DENSE, "protocol": PROTOCOL},
    ],
    verified={"masked_compact": 2e-6, "compact_loaded": 0.0, "examples": 64},
    seconds={"prune": 100.4, "recover": 300.0},
    versions={"torch": "2.13.0"},
    data="0123",
)
TARGET = {
    **{"asked_ms": 5.0, "predicted_ms": 4.9, "measured_ms": 5.2},
    **{"asked_speedup": 4.0, "predicted_speedup": 4.08, "measured_speedup": 3.85},
    "unpruned_ms": {"predicted": 20.0, "measured": 20.02},
    "protocol": PROTOCOL,
}


def write_model(folder, *units, keep=0.4):
    """Write a compact model that kept a random part of its units; returns its space and its plan."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(config())
    space = Space(model, *units)
    plan = Plan.of(space, (torch.rand(len(space)) < keep).float())
    save(cut(model, plan), folder)
    return space, plan


def logged(stages=("prune", "recover"), steps=40, every=4):
    """The lines that training logs: losses and speed in every stage, two evaluations, densities in the prune stage."""
    for stage in stages:
        for step in range(every, steps + 1, every):
            where, used = {"stage": stage, "step": step, "of": steps}, {"seconds": 0.5 * step, "rows": 8 * step}
            terms = {"loss": 2.5, "loss_logits": 2.0 + step / 30, "loss_hidden": 20.0 / step}
            kept = {"density": 1 - 0.9 * step / steps} if stage == "prune" else {}
            yield {**where, **terms, **kept, **used, "resident_mb": 900.0 - step, "anonymous_mb": 700.0 - step}
            if step % 20 == 0:
                yield {**where, "eval_loss": 0.4, "eval_accuracy": 0.85, "eval_runtime": 0.3, **kept, **used}
        yield {**where, "train_runtime": 20.0, "train_loss": 2.5, **used}


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(folder, report=REPORT, *units):
    """Write the whole folder of a run, with its pages."""
    folder.mkdir(exist_ok=True)
    space, plan = write_model(folder / "model", *units)
    write_lines(folder / "log.jsonl", logged())
    counts = {group.name: int(plan.kept[space.slices[group.name]].sum()) for group in space.groups}
    whole = {group.name: group.size for group in space.groups}
    steps = [{"stage": "prune", "step": step, "of": 40, "progress": step / 80} for step in (4, 20, 40)]
    write_lines(folder / "pruned.jsonl", [{**line, "kept": whole if line["step"] < 20 else counts} for line in steps])
    run_page.write(report, folder)
    report.save(folder)
    return folder
